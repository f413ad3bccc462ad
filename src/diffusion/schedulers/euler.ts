// Euler's method: Algorithm 2 of "Elucidating the Design Space of Diffusion-Based Generative Models" (arXiv 2206.00364)
// without churn and without the second-order correction.
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { originalFromSigma } from './predicted-original.ts'
import { runBuffer } from './run-buffer.ts'
import type { Scheduler } from './scheduler.ts'
import { sigmaRun } from './sigma-run.ts'

const { fround } = Math

/** An Euler run of `steps` steps. Throws bad_argument when the model's schedule cannot give them. */
export function euler(config: SchedulerConfig, steps: number): Scheduler {
  const { sigmas, ...run } = sigmaRun(config, steps)
  const originals = runBuffer()
  return {
    ...run,
    order: 1,
    step(modelOutput, index, sample) {
      const original = originals(sample.length)
      originalFromSigma(config.predictionType, sigmas[index], sample, modelOutput, original)
      eulerStep(sample, original, sigmas[index], sigmas[index + 1])
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
