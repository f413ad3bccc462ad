// DDIM, "Denoising Diffusion Implicit Models" (arXiv 2010.02502), equation 12 with η = 0.
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { AppError } from '../../errors.ts'
import { combine } from './elementwise.ts'
import { alphasCumprod } from './noise-schedule.ts'
import { originalFromAlphaSigma } from './predicted-original.ts'
import type { Scheduler } from './scheduler.ts'
import { spacedTimesteps } from './timestep-spacing.ts'

const { fround } = Math

/** A DDIM run of `steps` steps. Throws bad_argument when the model's schedule cannot give them. */
export function ddim(config: SchedulerConfig, steps: number): Scheduler {
  const timesteps = spacedTimesteps(config, steps, true)
  const alphas = alphasCumprod(config)
  const finalAlpha = config.setAlphaToOne ? 1 : alphas[0]
  const stride = Math.floor(config.numTrainTimesteps / steps)
  if (config.predictionType === 'epsilon' && timesteps.some((timestep) => alphas[timestep] === 0))
    throw new AppError(
      'bad_argument',
      `sampler: DDIM cannot start from zero terminal SNR (timestep ${timesteps[0]}) with a model that predicts epsilon`,
    )

  return {
    timesteps,
    initNoiseSigma: 1,
    scaleModelInput: (sample) => sample,
    step(modelOutput, index, sample) {
      const timestep = timesteps[index]
      const alpha = alphas[timestep]
      const previousAlpha = timestep >= stride ? alphas[timestep - stride] : finalAlpha
      const signal = fround(Math.sqrt(alpha))
      const noise = fround(Math.sqrt(fround(1 - alpha)))
      const nextSignal = fround(Math.sqrt(previousAlpha))
      const nextNoise = fround(Math.sqrt(fround(1 - previousAlpha)))
      const original = originalFromAlphaSigma(config.predictionType, signal, noise)
      const epsilon = predictedNoise(config.predictionType, signal, noise)
      return combine(
        sample,
        modelOutput,
        (x, output) => fround(nextSignal * original(x, output)) + fround(nextNoise * epsilon(x, output)),
      )
    },
  }
}

/** The noise in a sample by the network's output, for one element. */
function predictedNoise(
  predictionType: SchedulerConfig['predictionType'],
  signal: number,
  noise: number,
): (sample: number, output: number) => number {
  switch (predictionType) {
    case 'epsilon':
      return (_, output) => output
    case 'v_prediction':
      return (sample, output) => fround(fround(signal * output) + fround(noise * sample))
    case 'sample':
      return (sample, output) => fround(fround(sample - fround(signal * output)) / noise)
    default:
      return predictionType satisfies never
  }
}
