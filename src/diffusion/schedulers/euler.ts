// Euler's method: Algorithm 2 of "Elucidating the Design Space of Diffusion-Based Generative Models" (arXiv 2206.00364)
// without churn and without the second-order correction.
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { finalSigma } from './noise-schedule.ts'
import { originalFromSigma } from './predicted-original.ts'
import { runBuffer } from './run-buffer.ts'
import type { Scheduler } from './scheduler.ts'
import { sigmaLevels, sigmaRun } from './sigma-run.ts'

const { fround } = Math

/** An Euler run of `steps` steps. Throws bad_argument when the model's schedule cannot give them. */
export function euler(config: SchedulerConfig, steps: number): Scheduler {
  const options = { karrasSigmas: config.useKarrasSigmas, finalSigma: finalSigma(config) }
  const levels = sigmaLevels(config, steps, options)
  const originals = runBuffer()
  return {
    ...sigmaRun(levels),
    step(modelOutput, index, sample) {
      const [from, to] = [levels.sigmas[index], levels.sigmas[index + 1]]
      const original = originals(sample.length)
      originalFromSigma(config.predictionType, from, sample, modelOutput, original)
      eulerStep(sample, original, from, to)
    },
  }
}

/** Moves `sample` in place from noise level `from` to `to` along the straight line that leads to `original`. */
export function eulerStep(sample: Float32Array, original: Float32Array, from: number, to: number): void {
  const change = fround(to - from)
  for (let i = 0; i < sample.length; i++) {
    const derivative = fround(fround(sample[i] - original[i]) / from)
    sample[i] += fround(derivative * change)
  }
}
