// "Pseudo Numerical Methods for Diffusion Models on Manifolds" (arXiv 2202.09778): the transfer of equation 11 with the
// linear multistep combinations of equation 12, started by the two evaluations of the pseudo improved Euler method.
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { alphaRun, sharesOf } from './alpha-run.ts'
import { noiseFromAlphaSigma } from './predicted-original.ts'
import { runBuffer } from './run-buffer.ts'
import type { Scheduler } from './scheduler.ts'
import { spacedTimesteps } from './timestep-spacing.ts'

const { fround } = Math

/**
 * A run of `steps` steps, one evaluation more than steps, from evaluation `begin` on. Throws bad_argument when the model's
 * schedule cannot give them.
 */
export function pndm(config: SchedulerConfig, steps: number, begin: number): Scheduler {
  const { alphas, ...run } = alphaRun(config, plmsTimesteps(config, steps))
  const finalAlpha = config.setAlphaToOne ? 1 : alphas[0]
  const stride = Math.floor(config.numTrainTimesteps / steps)
  const combinations = runBuffer()
  const starts = runBuffer()
  const history = Array.from({ length: 4 }, runBuffer)

  return {
    ...run,
    order: 1,
    step(modelOutput, index, sample) {
      const { length } = sample
      const count = index - begin
      // The second evaluation repeats the first step with a better slope; only the first of them counts as history.
      const again = count === 1
      const newest = again ? 0 : Math.max(count - 1, 0)
      const outputAt = (age: number): Float32Array => history[(newest - age) % 4](length)
      const from = run.timesteps[index] + (again ? stride : 0)
      const to = from - stride
      if (!again) outputAt(0).set(modelOutput)
      if (count === 0) starts(length).set(sample)
      if (again) sample.set(starts(length))

      const slope = combinations(length)
      const e0 = outputAt(0)
      if (again) for (let i = 0; i < length; i++) slope[i] = fround(modelOutput[i] + e0[i]) / 2
      else if (newest === 0) slope.set(e0)
      else if (newest === 1) {
        const e1 = outputAt(1)
        for (let i = 0; i < length; i++) slope[i] = fround(fround(3 * e0[i]) - e1[i]) / 2
      } else if (newest === 2) {
        const [e1, e2] = [outputAt(1), outputAt(2)]
        for (let i = 0; i < length; i++)
          slope[i] = fround(fround(fround(23 * e0[i]) - fround(16 * e1[i])) + fround(5 * e2[i])) / 12
      } else {
        const [e1, e2, e3] = [outputAt(1), outputAt(2), outputAt(3)]
        const factor = fround(1 / 24)
        for (let i = 0; i < length; i++) {
          const two = fround(fround(55 * e0[i]) - fround(59 * e1[i]))
          slope[i] = factor * fround(fround(two + fround(37 * e2[i])) - fround(9 * e3[i]))
        }
      }
      transfer(config, alphas[from], to >= 0 ? alphas[to] : finalAlpha, sample, slope)
    },
  }
}

/** Moves `sample` from ᾱ `from` to ᾱ `to` along the noise that the network's (combined) `output` tells; overwrites both. */
function transfer(config: SchedulerConfig, from: number, to: number, sample: Float32Array, output: Float32Array): void {
  const { signal, noise } = sharesOf(from)
  noiseFromAlphaSigma(config.predictionType, signal, noise, sample, output, output)
  const beta = fround(1 - from)
  const keep = fround(Math.sqrt(fround(to / from)))
  const root = fround(Math.sqrt(fround(fround(from * beta) * to)))
  const divisor = fround(fround(from * sharesOf(to).noise) + root)
  const move = fround(to - from)
  for (let i = 0; i < sample.length; i++)
    sample[i] = fround(keep * sample[i]) - fround(fround(move * output[i]) / divisor)
}

/** The model's spacing with the second timestep twice; one step has no second. */
function plmsTimesteps(config: SchedulerConfig, steps: number): number[] {
  const timesteps = spacedTimesteps(config, steps, 'whole')
  return [...timesteps.slice(0, 2), ...timesteps.slice(1)]
}
