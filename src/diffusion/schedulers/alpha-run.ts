// What the methods that step over ᾱ (DDIM and its kin) have in common.
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { alphasCumprod } from './noise-schedule.ts'
import type { Scheduler } from './scheduler.ts'

const { fround } = Math

/** The schedule of a run and the parts of a {@link Scheduler} that follow from it alone. */
export type AlphaRun = Omit<Scheduler, 'step' | 'order'> & {
  /** ᾱ of every training timestep. */
  readonly alphas: Float32Array
}

/** A run over the given timesteps, which are whole numbers. */
export function alphaRun(config: SchedulerConfig, timesteps: readonly number[]): AlphaRun {
  const alphas = alphasCumprod(config)
  return {
    timesteps,
    alphas,
    initNoiseSigma: 1,
    scaleModelInput: (sample, _, out) => out.set(sample),
    addNoise(original, fresh, index, out) {
      const { signal, noise } = sharesOf(alphas[timesteps[index]])
      for (let i = 0; i < out.length; i++) out[i] = fround(signal * original[i]) + fround(noise * fresh[i])
    },
  }
}

/** √ᾱ and √(1 − ᾱ): the shares of picture and noise. */
export function sharesOf(alpha: number): { readonly signal: number; readonly noise: number } {
  return { signal: fround(Math.sqrt(alpha)), noise: fround(Math.sqrt(fround(1 - alpha))) }
}
