// Euler's method: Algorithm 2 of "Elucidating the Design Space of Diffusion-Based Generative Models" (arXiv 2206.00364)
// without churn and without the second-order correction.
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { combine } from './elementwise.ts'
import { originalFromSigma } from './predicted-original.ts'
import type { Scheduler } from './scheduler.ts'
import { sigmaRun } from './sigma-run.ts'

const { fround } = Math

/** An Euler run of `steps` steps. Throws bad_argument when the model's schedule cannot give them. */
export function euler(config: SchedulerConfig, steps: number): Scheduler {
  const { sigmas, ...run } = sigmaRun(config, steps)
  return {
    ...run,
    step(modelOutput, index, sample) {
      const sigma = sigmas[index]
      const change = fround(sigmas[index + 1] - sigma)
      const original = originalFromSigma(config.predictionType, sigma)
      return combine(sample, modelOutput, (x, output) => {
        const derivative = fround(fround(x - original(x, output)) / sigma)
        return x + fround(derivative * change)
      })
    },
  }
}
