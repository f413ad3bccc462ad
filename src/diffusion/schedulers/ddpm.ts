// "Denoising Diffusion Probabilistic Models" (arXiv 2006.11239): the mean is equation 7, the variance β̃ there.
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { alphaRun, sharesOf } from './alpha-run.ts'
import { clip, originalFromAlphaSigma } from './predicted-original.ts'
import { runBuffer } from './run-buffer.ts'
import type { Scheduler } from './scheduler.ts'
import { spacedTimesteps } from './timestep-spacing.ts'

const { fround } = Math

/** A DDPM run of `steps` steps, which draws noise at each. Throws bad_argument when the model's schedule cannot give them. */
export function ddpm(config: SchedulerConfig, steps: number): Scheduler {
  const { alphas, ...run } = alphaRun(config, spacedTimesteps(config, steps, 'whole'))
  const originals = runBuffer()
  return {
    ...run,
    order: 1,
    step(modelOutput, index, sample, noise) {
      const timestep = run.timesteps[index]
      const alpha = alphas[timestep]
      const nextAlpha = index + 1 < steps ? alphas[run.timesteps[index + 1]] : 1
      const stepAlpha = fround(alpha / nextAlpha)
      const stepBeta = fround(1 - stepAlpha)
      const beta = fround(1 - alpha)
      const nextBeta = fround(1 - nextAlpha)
      const shares = sharesOf(alpha)
      const original = originals(sample.length)
      originalFromAlphaSigma(config.predictionType, shares.signal, shares.noise, sample, modelOutput, original)
      clip(original, config.clipSampleRange)
      const originalScale = fround(fround(fround(Math.sqrt(nextAlpha)) * stepBeta) / beta)
      const sampleScale = fround(fround(fround(Math.sqrt(stepAlpha)) * nextBeta) / beta)
      for (let i = 0; i < sample.length; i++)
        sample[i] = fround(originalScale * original[i]) + fround(sampleScale * sample[i])
      if (timestep === 0) return
      // Drawn at the last step too, where next to nothing is added, so that the stream moves on as the reference's does.
      const variance = Math.max(fround(fround(nextBeta / beta) * stepBeta), fround(1e-20))
      const deviation = fround(Math.sqrt(variance))
      const fresh = noise()
      for (let i = 0; i < sample.length; i++) sample[i] += fround(deviation * fresh[i])
    },
  }
}
