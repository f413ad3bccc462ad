// Heun's method: Algorithm 1 of "Elucidating the Design Space of Diffusion-Based Generative Models" (arXiv 2206.00364)
// without churn.
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { clip, originalFromSigma } from './predicted-original.ts'
import { runBuffer } from './run-buffer.ts'
import type { Scheduler } from './scheduler.ts'
import { addSigmaNoise, scaleBySigma, sigmaLevels } from './sigma-run.ts'

const { fround } = Math

/** A run of `steps` steps, two evaluations each but the last. Throws bad_argument when the model's schedule cannot give them. */
export function heun(config: SchedulerConfig, steps: number, options: { readonly karrasSigmas: boolean }): Scheduler {
  const { timesteps, sigmas, initNoiseSigma } = sigmaLevels(config, steps, options)
  const [originals, derivatives, starts] = [runBuffer(), runBuffer(), runBuffer()]
  /** The noise level at which the network is asked: the step's own, then that of its end. */
  const sigmaOf = (index: number): number => sigmas[Math.ceil(index / 2)]

  return {
    timesteps: Array.from({ length: 2 * steps - 1 }, (_, index) => timesteps[Math.ceil(index / 2)]),
    order: 2,
    initNoiseSigma,
    scaleModelInput: (sample, index, out) => scaleBySigma(sample, sigmaOf(index), out),
    addNoise: (original, noise, index, out) => addSigmaNoise(original, noise, sigmaOf(index), out),
    step(modelOutput, index, sample) {
      const step = Math.floor(index / 2)
      const change = fround(sigmas[step + 1] - sigmas[step])
      const sigma = sigmaOf(index)
      const original = originals(sample.length)
      const derivative = derivatives(sample.length)
      const start = starts(sample.length)
      originalFromSigma(config.predictionType, sigma, sample, modelOutput, original)
      clip(original, config.clipSampleRange)
      if (index % 2 === 0) {
        for (let i = 0; i < sample.length; i++) derivative[i] = fround(sample[i] - original[i]) / sigma
        start.set(sample)
      } else {
        for (let i = 0; i < sample.length; i++) {
          const atEnd = fround(fround(sample[i] - original[i]) / sigma)
          derivative[i] = fround(derivative[i] + atEnd) / 2
        }
      }
      for (let i = 0; i < sample.length; i++) sample[i] = start[i] + fround(derivative[i] * change)
    },
  }
}
