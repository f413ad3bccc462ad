// What the methods that integrate over λ = ln(α/σ) with variance-preserving latents (DPM-Solver++, UniPC) have in common.
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { karrasSigmas, timestepOfSigma } from './karras-sigmas.ts'
import { finalSigma, sigmaAt, trainingSigmas } from './noise-schedule.ts'
import type { Scheduler } from './scheduler.ts'
import { roundHalfEven, spacedTimesteps } from './timestep-spacing.ts'

const { fround } = Math

/** α, σ with α² + σ² = 1 and λ = ln(α/σ). */
export type NoiseLevel = { readonly alpha: number; readonly sigma: number; readonly lambda: number }

/** The noise levels of a run and the parts of a {@link Scheduler} that follow from them alone. */
export type SolverRun = Omit<Scheduler, 'step'> & {
  /** One a step and that of the end. */
  readonly levels: readonly NoiseLevel[]
}

/**
 * A run of `steps` steps, by Karras' noise levels between the ends of the training or by timestep spacing: the model's, or
 * the given one. Throws bad_argument when the model's schedule cannot give them.
 */
export function solverRun(
  config: SchedulerConfig,
  steps: number,
  options: { readonly karrasSigmas: boolean; readonly spacing?: SchedulerConfig['timestepSpacing'] },
): SolverRun {
  const training = trainingSigmas(config)
  const spaced = solverTimesteps(config, steps, options.spacing ?? config.timestepSpacing)
  const sigmas = options.karrasSigmas
    ? karrasSigmas(training[training.length - 1], training[0], steps)
    : spaced.map((timestep) => sigmaAt(training, timestep))
  const levels = [...sigmas, finalSigma(config)].map((ratio) => noiseLevel(fround(ratio)))
  return {
    timesteps: options.karrasSigmas ? sigmas.map((sigma) => roundHalfEven(timestepOfSigma(sigma, training))) : spaced,
    levels,
    order: 1,
    initNoiseSigma: 1,
    scaleModelInput: (sample, _, out) => out.set(sample),
    addNoise(original, noise, index, out) {
      const { alpha, sigma } = levels[index]
      for (let i = 0; i < out.length; i++) out[i] = fround(alpha * original[i]) + fround(sigma * noise[i])
    },
  }
}

/** Of a noise level given as σ/α. */
function noiseLevel(ratio: number): NoiseLevel {
  const alpha = fround(1 / fround(Math.sqrt(fround(fround(ratio * ratio) + 1))))
  const sigma = fround(ratio * alpha)
  return { alpha, sigma, lambda: fround(fround(Math.log(alpha)) - fround(Math.log(sigma))) }
}

/** The solver counts the clean end as a timestep of its own, except with trailing spacing, which leaves it out by itself. */
function solverTimesteps(
  config: SchedulerConfig,
  steps: number,
  spacing: SchedulerConfig['timestepSpacing'],
): readonly number[] {
  return spacing === 'trailing'
    ? spacedTimesteps(config, steps, 'whole', spacing)
    : spacedTimesteps(config, steps + 1, 'whole', spacing).slice(0, -1)
}
