// DDIM, "Denoising Diffusion Implicit Models" (arXiv 2010.02502), equation 12 with η = 0.
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { AppError } from '../../errors.ts'
import { alphasCumprod } from './noise-schedule.ts'
import { noiseFromAlphaSigma, originalFromAlphaSigma } from './predicted-original.ts'
import { runBuffer } from './run-buffer.ts'
import type { Scheduler } from './scheduler.ts'
import { spacedTimesteps } from './timestep-spacing.ts'

const { fround } = Math

/** A DDIM run of `steps` steps. Throws bad_argument when the model's schedule cannot give them. */
export function ddim(config: SchedulerConfig, steps: number): Scheduler {
  const { predictionType } = config
  const timesteps = spacedTimesteps(config, steps, true)
  const alphas = alphasCumprod(config)
  const finalAlpha = config.setAlphaToOne ? 1 : alphas[0]
  const stride = Math.floor(config.numTrainTimesteps / steps)
  if (predictionType === 'epsilon' && timesteps.some((timestep) => alphas[timestep] === 0))
    throw new AppError(
      'bad_argument',
      `sampler: DDIM cannot start from zero terminal SNR (timestep ${timesteps[0]}) with a model that predicts epsilon`,
    )
  const [originals, epsilons] = [runBuffer(), runBuffer()]

  return {
    timesteps,
    order: 1,
    initNoiseSigma: 1,
    scaleModelInput: (sample, _, out) => out.set(sample),
    step(modelOutput, index, sample) {
      const timestep = timesteps[index]
      const { signal, noise } = partsOf(alphas[timestep])
      const next = partsOf(timestep >= stride ? alphas[timestep - stride] : finalAlpha)
      const original = originals(sample.length)
      const epsilon = epsilons(sample.length)
      originalFromAlphaSigma(predictionType, signal, noise, sample, modelOutput, original)
      noiseFromAlphaSigma(predictionType, signal, noise, sample, modelOutput, epsilon)
      for (let i = 0; i < sample.length; i++)
        sample[i] = fround(next.signal * original[i]) + fround(next.noise * epsilon[i])
    },
    addNoise(original, fresh, index, out) {
      const { signal, noise } = partsOf(alphas[timesteps[index]])
      for (let i = 0; i < out.length; i++) out[i] = fround(signal * original[i]) + fround(noise * fresh[i])
    },
  }
}

/** √ᾱ and √(1 − ᾱ), the shares of picture and noise. */
function partsOf(alpha: number): { readonly signal: number; readonly noise: number } {
  return { signal: fround(Math.sqrt(alpha)), noise: fround(Math.sqrt(fround(1 - alpha))) }
}
