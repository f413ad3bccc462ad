// DPM-Solver++(2M), midpoint: Algorithm 2 of "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic
// Models" (arXiv 2211.01095). The first and the last step are of first order (equation 9 there, which is DDIM's).
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import type { Tensor } from '#tensor/tensor.ts'
import { AppError } from '../../errors.ts'
import { combine } from './elementwise.ts'
import { karrasSigmas, timestepOfSigma } from './karras-sigmas.ts'
import { sigmaAt, trainingSigmas } from './noise-schedule.ts'
import { originalFromAlphaSigma } from './predicted-original.ts'
import type { Scheduler } from './scheduler.ts'
import { roundHalfEven, spacedTimesteps } from './timestep-spacing.ts'

const { fround } = Math

/** A DPM-Solver++(2M) run of `steps` steps. Throws bad_argument when the model's schedule cannot give them. */
export function dpmSolverMultistep(
  config: SchedulerConfig,
  steps: number,
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
  /** x₀ as seen at the step before, for the second order. */
  let previous: { readonly original: Tensor; readonly index: number } | null = null

  return {
    timesteps,
    initNoiseSigma: 1,
    scaleModelInput: (sample) => sample,
    step(modelOutput, index, sample) {
      if (previous !== null && previous.index !== index - 1)
        throw new AppError('internal', `scheduler: step ${index} was called after step ${previous.index}`)
      const here = noiseLevels[index]
      const next = noiseLevels[index + 1]
      const original = combine(
        sample,
        modelOutput,
        originalFromAlphaSigma(config.predictionType, here.alpha, here.sigma),
      )
      const h = fround(next.lambda - here.lambda)
      const keep = fround(next.sigma / here.sigma)
      const move = fround(next.alpha * fround(fround(Math.exp(-h)) - 1))
      const firstOrder = combine(sample, original, (x, x0) => fround(keep * x) - fround(move * x0))
      const before = previous
      previous = { original, index }
      if (before === null || index === timesteps.length - 1) return firstOrder

      const ratio = fround(fround(here.lambda - noiseLevels[index - 1].lambda) / h)
      const slope = fround(1 / ratio)
      const halfMove = fround(0.5 * move)
      const difference = combine(original, before.original, (x0, earlier) => slope * fround(x0 - earlier))
      return combine(firstOrder, difference, (x, d) => x - fround(halfMove * d))
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
