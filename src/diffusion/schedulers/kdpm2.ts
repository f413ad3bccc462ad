// The midpoint method over log σ, DPM-Solver-2 in the words of "Elucidating the Design Space of Diffusion-Based Generative
// Models" (arXiv 2206.00364), and its ancestral variant (k-diffusion's sample_dpm_2 and sample_dpm_2_ancestral).
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { addFreshNoise, ancestralStep } from './euler-ancestral.ts'
import { timestepOfSigma } from './karras-sigmas.ts'
import { originalFromSigma } from './predicted-original.ts'
import { runBuffer } from './run-buffer.ts'
import type { Scheduler } from './scheduler.ts'
import { addSigmaNoise, scaleBySigma, sigmaLevels } from './sigma-run.ts'

const { fround } = Math

/**
 * A run of `steps` steps, two evaluations each but the last, which is Euler's. `ancestral` goes further down and adds
 * noise after each step. Throws bad_argument when the model's schedule cannot give them.
 */
export function kdpm2(
  config: SchedulerConfig,
  steps: number,
  options: { readonly karrasSigmas: boolean; readonly ancestral: boolean },
): Scheduler {
  const levels = sigmaLevels(config, steps, { ...options, wholeTimesteps: true })
  const { sigmas, initNoiseSigma } = levels
  const ends = Array.from({ length: steps }, (_, step) =>
    options.ancestral ? ancestralStep(sigmas[step], sigmas[step + 1]) : { down: sigmas[step + 1], up: 0 },
  )
  const middles = ends.map(({ down }, step) => geometricMean(sigmas[step], down))
  const timesteps = levels.timesteps.flatMap((timestep, step) =>
    step === steps - 1 ? [timestep] : [timestep, fround(timestepOfSigma(middles[step], levels.training))],
  )
  const [originals, starts] = [runBuffer(), runBuffer()]
  /** The noise level at which the network is asked. */
  const sigmaOf = (index: number): number => (index % 2 === 0 ? sigmas[index / 2] : middles[(index - 1) / 2])

  return {
    timesteps,
    order: 2,
    initNoiseSigma,
    scaleModelInput: (sample, index, out) => scaleBySigma(sample, sigmaOf(index), out),
    // At a middle the reference takes the level of the step's end.
    addNoise: (original, noise, index, out) => addSigmaNoise(original, noise, sigmas[Math.ceil(index / 2)], out),
    step(modelOutput, index, sample, noise) {
      const step = Math.floor(index / 2)
      const first = index % 2 === 0
      const sigma = sigmaOf(index)
      const original = originals(sample.length)
      const start = starts(sample.length)
      originalFromSigma(config.predictionType, sigma, sample, modelOutput, original)
      if (first) start.set(sample)
      const change = fround((first ? middles[step] : ends[step].down) - sigmas[step])
      for (let i = 0; i < sample.length; i++) {
        const derivative = fround(fround(sample[i] - original[i]) / sigma)
        sample[i] = start[i] + fround(derivative * change)
      }
      if (!first && options.ancestral) addFreshNoise(sample, noise(), ends[step].up)
    },
  }
}

/** √(a·b) by way of logarithms in fp32; 0 when `b` is. */
function geometricMean(a: number, b: number): number {
  if (b === 0) return 0
  const [from, to] = [fround(Math.log(a)), fround(Math.log(b))]
  return fround(Math.exp(fround(to - fround(fround(to - from) * 0.5))))
}
