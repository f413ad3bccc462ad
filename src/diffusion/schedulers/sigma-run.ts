// What the methods that integrate over σ (the Euler family) have in common: noise levels, timesteps and scalings.
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { karrasSigmas, timestepOfSigma } from './karras-sigmas.ts'
import { sigmaAt, trainingSigmas } from './noise-schedule.ts'
import type { Scheduler } from './scheduler.ts'
import { roundHalfEven, spacedTimesteps } from './timestep-spacing.ts'

const { fround } = Math

/** How a sampler of this family chooses its noise levels beyond the model's timestep spacing. */
export type SigmaOptions = {
  /** Karras' noise levels between the first and the last of the spacing. */
  readonly karrasSigmas: boolean
  /** Whether timesteps that belong to Karras' levels are rounded to whole numbers. */
  readonly wholeTimesteps?: boolean
  /** Whether fractional timesteps are looked up in double precision; in fp32 otherwise. */
  readonly double?: boolean
  /** The noise level at the end. */
  readonly finalSigma?: number
}

/** The noise levels of a run. */
export type SigmaLevels = {
  /** fp32, one a step. */
  readonly timesteps: readonly number[]
  /** Falling, fp32, one a step and the last one of the run. */
  readonly sigmas: Float32Array
  /** The same before they are rounded to fp32, without the last one. */
  readonly exact: readonly number[]
  /** σ of every training timestep. */
  readonly training: Float32Array
  /** Factor on unit noise for the first latents. */
  readonly initNoiseSigma: number
}

/** `steps` noise levels by the model's timestep spacing. Throws bad_argument when the schedule has no such run. */
export function sigmaLevels(config: SchedulerConfig, steps: number, options: SigmaOptions): SigmaLevels {
  const training = trainingSigmas(config)
  let timesteps = spacedTimesteps(config, steps, options.double ? 'double' : 'single')
  let exact = timesteps.map((timestep) => sigmaAt(training, timestep))
  if (options.karrasSigmas) {
    exact = karrasSigmas(exact[0], exact[steps - 1], steps)
    timesteps = exact.map((sigma) => timestepOfSigma(sigma, training))
    if (options.wholeTimesteps) timesteps = timesteps.map(roundHalfEven)
  }
  const sigmas = Float32Array.from([...exact, options.finalSigma ?? 0])
  // σ falls, so the first is the largest. Leading spacing starts below full noise: the latents carry some signal's variance.
  const initNoiseSigma = config.timestepSpacing === 'leading' ? rootOfVariance(sigmas[0]) : sigmas[0]
  return { timesteps: timesteps.map(fround), sigmas, exact, training, initNoiseSigma }
}

/** The parts of a scheduler of first order that follow from its noise levels alone. */
export function sigmaRun({ timesteps, sigmas, initNoiseSigma }: SigmaLevels): Omit<Scheduler, 'step'> {
  return {
    timesteps,
    order: 1,
    initNoiseSigma,
    scaleModelInput: (sample, index, out) => scaleBySigma(sample, sigmas[index], out),
    addNoise: (original, noise, index, out) => addSigmaNoise(original, noise, sigmas[index], out),
  }
}

/** Writes a sample with noise σ, scaled to unit variance, into `out`. */
export function scaleBySigma(sample: Float32Array, sigma: number, out: Float32Array): void {
  const scale = rootOfVariance(sigma)
  for (let i = 0; i < out.length; i++) out[i] = sample[i] / scale
}

/** Writes original + σ·noise into `out`. */
export function addSigmaNoise(original: Float32Array, noise: Float32Array, sigma: number, out: Float32Array): void {
  for (let i = 0; i < out.length; i++) out[i] = original[i] + fround(noise[i] * sigma)
}

/** √(σ² + 1): the standard deviation of latents of unit variance with noise σ added. */
function rootOfVariance(sigma: number): number {
  return fround(Math.sqrt(fround(fround(sigma * sigma) + 1)))
}
