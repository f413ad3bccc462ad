// DPM-Solver++(2M), midpoint: Algorithm 2 of "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic
// Models" (arXiv 2211.01095). The first and the last step are of first order (equation 9 there, which is DDIM's).
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { AppError } from '../../errors.ts'
import { karrasSigmas, timestepOfSigma } from './karras-sigmas.ts'
import { sigmaAt, trainingSigmas } from './noise-schedule.ts'
import { originalFromAlphaSigma } from './predicted-original.ts'
import { runBuffer } from './run-buffer.ts'
import type { Scheduler } from './scheduler.ts'
import { roundHalfEven, spacedTimesteps } from './timestep-spacing.ts'

const { fround } = Math

/** A DPM-Solver++(2M) run of `steps` steps from `begin` on. Throws bad_argument when the model's schedule cannot give them. */
export function dpmSolverMultistep(
  config: SchedulerConfig,
  steps: number,
  begin: number,
  options: { readonly karrasSigmas: boolean },
): Scheduler {
  const training = trainingSigmas(config)
  const timesteps = options.karrasSigmas ? [] : solverTimesteps(config, steps)
  const levels = options.karrasSigmas
    ? karrasSigmas(training[training.length - 1], training[0], steps)
    : timesteps.map((timestep) => sigmaAt(training, timestep))
  if (options.karrasSigmas) for (const level of levels) timesteps.push(roundHalfEven(timestepOfSigma(level, training)))
  const points = Float32Array.from([...levels, 0]).map(Number)
  const noiseLevels = Array.from(points, noiseLevel)
  const [even, odd] = [runBuffer(), runBuffer()]
  let expected = begin

  return {
    timesteps,
    order: 1,
    initNoiseSigma: 1,
    scaleModelInput: (sample, _, out) => out.set(sample),
    step(modelOutput, index, sample) {
      if (index !== expected)
        throw new AppError('internal', `scheduler: evaluation ${index} was called instead of ${expected}`)
      expected = index + 1
      const here = noiseLevels[index]
      const next = noiseLevels[index + 1]
      const [buffer, buffer2] = index % 2 === 0 ? [even, odd] : [odd, even]
      const original = buffer(sample.length)
      originalFromAlphaSigma(config.predictionType, here.alpha, here.sigma, sample, modelOutput, original)
      const h = fround(next.lambda - here.lambda)
      const keep = fround(next.sigma / here.sigma)
      const move = fround(next.alpha * fround(fround(Math.exp(-h)) - 1))
      for (let i = 0; i < sample.length; i++) sample[i] = fround(keep * sample[i]) - fround(move * original[i])
      if (index === begin || index === timesteps.length - 1) return

      /** x₀ as seen at the step before, for the second order. */
      const earlier = buffer2(sample.length)
      const ratio = fround(fround(here.lambda - noiseLevels[index - 1].lambda) / h)
      const slope = fround(1 / ratio)
      const halfMove = fround(0.5 * move)
      for (let i = 0; i < sample.length; i++) {
        const difference = fround(slope * fround(original[i] - earlier[i]))
        sample[i] -= fround(halfMove * difference)
      }
    },
    addNoise(original, noise, index, out) {
      const { alpha, sigma } = noiseLevels[index]
      for (let i = 0; i < out.length; i++) out[i] = fround(alpha * original[i]) + fround(sigma * noise[i])
    },
  }
}

/** α, σ with α² + σ² = 1 and λ = ln(α/σ) of a noise level given as σ/α. */
function noiseLevel(ratio: number): { readonly alpha: number; readonly sigma: number; readonly lambda: number } {
  const alpha = fround(1 / fround(Math.sqrt(fround(fround(ratio * ratio) + 1))))
  const sigma = fround(ratio * alpha)
  return { alpha, sigma, lambda: fround(fround(Math.log(alpha)) - fround(Math.log(sigma))) }
}

/** The solver counts the clean end as a timestep of its own, except with trailing spacing, which leaves it out by itself. */
function solverTimesteps(config: SchedulerConfig, steps: number): number[] {
  return config.timestepSpacing === 'trailing'
    ? spacedTimesteps(config, steps, true)
    : spacedTimesteps(config, steps + 1, true).slice(0, -1)
}
