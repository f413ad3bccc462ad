// DDIM, "Denoising Diffusion Implicit Models" (arXiv 2010.02502), equation 12 with η = 0.
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { alphaRun, sharesOf } from './alpha-run.ts'
import { clip, noiseFromAlphaSigma, originalFromAlphaSigma } from './predicted-original.ts'
import { runBuffer } from './run-buffer.ts'
import type { Scheduler } from './scheduler.ts'
import { spacedTimesteps } from './timestep-spacing.ts'

const { fround } = Math

/** A DDIM run of `steps` steps. Throws bad_argument when the model's schedule cannot give them. */
export function ddim(config: SchedulerConfig, steps: number): Scheduler {
  const { predictionType } = config
  const { alphas, ...run } = alphaRun(config, spacedTimesteps(config, steps, 'whole'))
  const finalAlpha = config.setAlphaToOne ? 1 : alphas[0]
  const stride = Math.floor(config.numTrainTimesteps / steps)
  const [originals, epsilons] = [runBuffer(), runBuffer()]
  return {
    ...run,
    order: 1,
    step(modelOutput, index, sample) {
      const timestep = run.timesteps[index]
      const { signal, noise } = sharesOf(alphas[timestep])
      const next = sharesOf(timestep >= stride ? alphas[timestep - stride] : finalAlpha)
      const original = originals(sample.length)
      const epsilon = epsilons(sample.length)
      originalFromAlphaSigma(predictionType, signal, noise, sample, modelOutput, original)
      noiseFromAlphaSigma(predictionType, signal, noise, sample, modelOutput, epsilon)
      clip(original, config.clipSampleRange)
      for (let i = 0; i < sample.length; i++)
        sample[i] = fround(next.signal * original[i]) + fround(next.noise * epsilon[i])
    },
  }
}
