// A linear multistep method of order 4 over σ (Adams–Bashforth with uneven steps; k-diffusion's sample_lms).
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { originalFromSigma } from './predicted-original.ts'
import { runBuffer } from './run-buffer.ts'
import type { Scheduler } from './scheduler.ts'
import { sigmaLevels, sigmaRun } from './sigma-run.ts'

const { fround } = Math

const maxOrder = 4

/** A run of `steps` steps from evaluation `begin` on. Throws bad_argument when the model's schedule cannot give them. */
export function lms(
  config: SchedulerConfig,
  steps: number,
  begin: number,
  options: { readonly karrasSigmas: boolean },
): Scheduler {
  const levels = sigmaLevels(config, steps, options)
  const { sigmas } = levels
  const [originals, sums] = [runBuffer(), runBuffer()]
  const history = Array.from({ length: maxOrder }, runBuffer)
  return {
    ...sigmaRun(levels),
    step(modelOutput, index, sample) {
      const sigma = sigmas[index]
      const original = originals(sample.length)
      originalFromSigma(config.predictionType, sigma, sample, modelOutput, original)
      const newest = history[index % maxOrder](sample.length)
      for (let i = 0; i < sample.length; i++) newest[i] = fround(sample[i] - original[i]) / sigma

      // The order counts from the start of the schedule, also in a run that begins in the middle and has no history yet:
      // then the reference leaves the missing terms out, and so do we.
      const order = Math.min(index + 1, maxOrder)
      const terms = Math.min(index - begin + 1, maxOrder)
      const sum = sums(sample.length).fill(0)
      for (let age = 0; age < terms; age++) {
        const derivative = history[(index - age) % maxOrder](sample.length)
        const coefficient = lmsCoefficient(sigmas, order, index, age)
        for (let i = 0; i < sum.length; i++) sum[i] += fround(coefficient * derivative[i])
      }
      for (let i = 0; i < sample.length; i++) sample[i] += sum[i]
    },
  }
}

/** Gauss's points and weights on −1..1 for two evaluations, exact for polynomials of degree 3. */
const gaussPoint = Math.sqrt(1 / 3)

/** The integral over the step `index` of the Lagrange polynomial that is 1 at the noise level `age` steps back. */
function lmsCoefficient(sigmas: Float32Array, order: number, index: number, age: number): number {
  const polynomial = (tau: number): number => {
    let product = 1
    for (let k = 0; k < order; k++)
      if (k !== age) product *= (tau - sigmas[index - k]) / (sigmas[index - age] - sigmas[index - k])
    return product
  }
  const half = (sigmas[index + 1] - sigmas[index]) / 2
  const middle = (sigmas[index + 1] + sigmas[index]) / 2
  return fround(half * (polynomial(middle - half * gaussPoint) + polynomial(middle + half * gaussPoint)))
}
