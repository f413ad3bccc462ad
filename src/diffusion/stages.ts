// Which evaluations of a schedule are done by whom: from where a run starts by its strength, and where the base model
// hands over to the refiner ("ensemble of experts", arXiv 2307.01952, section 2.5). Arithmetic and rounding are diffusers'.
import { AppError } from '../errors.ts'
import type { DenoiserModel, PipelineModel } from './networks.ts'
import type { SamplerName } from './samplers.ts'
import { createScheduler } from './schedulers/create-scheduler.ts'
import type { Scheduler } from './schedulers/scheduler.ts'
import { roundHalfEven } from './schedulers/timestep-spacing.ts'

/** One denoiser's part of a run: evaluations `begin` up to, not including, `end` of its own schedule. */
export type Stage = { readonly begin: number; readonly end: number }

/** Who denoises; null does nothing. One of them does at least one evaluation. */
export type Stages = { readonly base: Stage | null; readonly refiner: Stage | null }

export type StageInput = {
  readonly sampler: SamplerName
  readonly numInferenceSteps: number
  /** Part of the schedule that is run, above 0 and up to 1; 1 for text to image. */
  readonly strength: number
  /** The base model's part of the schedule, 0..1; null: there is no refiner. */
  readonly denoisingEnd: number | null
}

/**
 * The stages of a run. Throws `bad_argument` for a strength or a split out of range, and where strength × steps is less
 * than one step.
 */
export function planStages(model: PipelineModel, input: StageInput): Stages {
  const { denoisingEnd, strength } = input
  if (!(strength > 0 && strength <= 1))
    throw new AppError('bad_argument', `strength: ${strength} is not above 0 and up to 1`, { field: 'start.strength' })
  if (denoisingEnd !== null && !(denoisingEnd >= 0 && denoisingEnd <= 1))
    throw new AppError('bad_argument', `high_noise_frac: ${denoisingEnd} is not in 0..1`, {
      field: 'refiner.denoisingEnd',
    })

  if (denoisingEnd === null) return { base: wholeRun(model, input), refiner: null }
  if (!model.refiner) throw new AppError('internal', 'stages: a split without a refiner')
  if (denoisingEnd === 0) return { base: null, refiner: wholeRun(model.refiner, input) }
  const base = upToCutoff(model, input, denoisingEnd)
  // A weak image to image run may begin where the refiner's part has begun already: then the refiner does it all.
  if (base === null) return { base, refiner: wholeRun(model.refiner, input) }
  const refiner = fromCutoff(model.refiner, input, denoisingEnd)
  return { base: refiner === null ? wholeRun(model, input) : base, refiner }
}

/** Evaluations of a stage. */
export function evaluationsOf(stage: Stage | null): number {
  return stage === null ? 0 : stage.end - stage.begin
}

function wholeRun({ scheduler: config }: DenoiserModel, { sampler, numInferenceSteps, strength }: StageInput): Stage {
  const scheduler = createScheduler(sampler, config, numInferenceSteps)
  return { begin: firstEvaluation(scheduler, numInferenceSteps, strength), end: scheduler.timesteps.length }
}

/** The evaluations at timesteps from the split's upwards; null where there are none. */
function upToCutoff(model: DenoiserModel, input: StageInput, denoisingEnd: number): Stage | null {
  const scheduler = createScheduler(input.sampler, model.scheduler, input.numInferenceSteps)
  const begin = firstEvaluation(scheduler, input.numInferenceSteps, input.strength)
  const cutoff = cutoffTimestep(model, denoisingEnd)
  const count = scheduler.timesteps.slice(begin).filter((timestep) => timestep >= cutoff).length
  return count === 0 ? null : { begin, end: begin + count }
}

/** The evaluations at timesteps below the split's; null where there are none. */
function fromCutoff(model: DenoiserModel, { sampler, numInferenceSteps }: StageInput, split: number): Stage | null {
  const { order, timesteps } = createScheduler(sampler, model.scheduler, numInferenceSteps)
  const cutoff = cutoffTimestep(model, split)
  const below = timesteps.filter((timestep) => timestep < cutoff).length
  // A second order method lists all timesteps but the first twice: an even count would begin inside a step.
  const count = order === 2 && below % 2 === 0 ? below + 1 : below
  return count === 0 ? null : { begin: timesteps.length - count, end: timesteps.length }
}

function firstEvaluation({ order }: Scheduler, steps: number, strength: number): number {
  const run = Math.min(Math.trunc(steps * strength), steps)
  if (run < 1)
    throw new AppError(
      'bad_argument',
      `strength: ${strength} of ${steps} steps is less than one step; it takes at least ${leastStrength(steps)}`,
      { field: 'start.strength' },
    )
  return (steps - run) * order
}

/** The smallest strength of a few digits that runs one step. */
function leastStrength(steps: number): number {
  return Math.ceil(1000 / steps) / 1000
}

function cutoffTimestep({ scheduler: { numTrainTimesteps } }: DenoiserModel, split: number): number {
  return roundHalfEven(numTrainTimesteps - split * numTrainTimesteps)
}
