// What the methods that integrate over σ (the Euler family) have in common: noise levels, timesteps and scalings.
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { sigmaAt, trainingSigmas } from './noise-schedule.ts'
import type { Scheduler } from './scheduler.ts'
import { spacedTimesteps } from './timestep-spacing.ts'

const { fround } = Math

/** Noise levels of a run and the parts of a {@link Scheduler} that follow from them alone. */
export type SigmaRun = Omit<Scheduler, 'step' | 'order'> & {
  /** Falling, fp32, one a step and a last 0. */
  readonly sigmas: Float32Array
}

/** A run of `steps` noise levels by the model's timestep spacing. Throws bad_argument when the schedule has no such run. */
export function sigmaRun(config: SchedulerConfig, steps: number): SigmaRun {
  const timesteps = spacedTimesteps(config, steps, false)
  const training = trainingSigmas(config)
  const sigmas = Float32Array.from([...timesteps.map((timestep) => sigmaAt(training, timestep)), 0])
  // σ falls, so the first is the largest. Leading spacing starts below full noise: the latents carry some signal's variance.
  const initNoiseSigma = config.timestepSpacing === 'leading' ? rootOfVariance(sigmas[0]) : sigmas[0]
  return {
    timesteps,
    sigmas,
    initNoiseSigma,
    scaleModelInput(sample, index, out) {
      const scale = rootOfVariance(sigmas[index])
      for (let i = 0; i < out.length; i++) out[i] = sample[i] / scale
    },
    addNoise(original, noise, index, out) {
      const sigma = sigmas[index]
      for (let i = 0; i < out.length; i++) out[i] = original[i] + fround(noise[i] * sigma)
    },
  }
}

/** √(σ² + 1): the standard deviation of latents of unit variance with noise σ added. */
function rootOfVariance(sigma: number): number {
  return fround(Math.sqrt(fround(fround(sigma * sigma) + 1)))
}
