// Euler's method with fresh noise after every step: ancestral sampling (k-diffusion's sample_euler_ancestral, η = 1).
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { AppError } from '../../errors.ts'
import { combine } from './elementwise.ts'
import { originalFromSigma } from './predicted-original.ts'
import type { Scheduler } from './scheduler.ts'
import { sigmaRun } from './sigma-run.ts'

const { fround } = Math

/** An ancestral Euler run of `steps` steps, which draws noise at each. Throws bad_argument when the model cannot give it. */
export function eulerAncestral(config: SchedulerConfig, steps: number): Scheduler {
  if (config.predictionType === 'sample')
    throw new AppError(
      'bad_argument',
      'sampler: K_EULER_ANCESTRAL needs a model that predicts epsilon or v_prediction; this one predicts sample',
    )
  const { sigmas, ...run } = sigmaRun(config, steps)
  return {
    ...run,
    step(modelOutput, index, sample, noise) {
      const sigma = sigmas[index]
      const { down, up } = ancestralStep(sigma, sigmas[index + 1])
      const change = fround(down - sigma)
      const original = originalFromSigma(config.predictionType, sigma)
      const denoised = combine(sample, modelOutput, (x, output) => {
        const derivative = fround(fround(x - original(x, output)) / sigma)
        return x + fround(derivative * change)
      })
      // Drawn at the last step too, where `up` is 0, so that the stream moves on as the reference's does.
      return combine(denoised, noise(), (x, z) => x + fround(z * up))
    },
  }
}

/** How far to denoise (`down`) and how much noise to add (`up`) to arrive at `to`: down² + up² = to². */
function ancestralStep(from: number, to: number): { readonly down: number; readonly up: number } {
  const fromSquare = fround(from * from)
  const toSquare = fround(to * to)
  const up = fround(Math.sqrt(fround(fround(toSquare * fround(fromSquare - toSquare)) / fromSquare)))
  const down = fround(Math.sqrt(fround(toSquare - fround(up * up))))
  return { down, up }
}
