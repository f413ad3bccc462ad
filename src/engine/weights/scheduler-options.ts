// diffusers' scheduler_config.json. Which algorithm runs is the user's choice of a sampler; what the model was trained
// with stands here.
import { choice, count, flag, fraction, index, unsupported, type Options } from './config-options.ts'
import type { SchedulerConfig } from './checkpoint.ts'

/** SDXL's own scheduler_config.json: for single files, and for options that a folder's file leaves out. */
export const sdxlSchedulerConfig: SchedulerConfig = {
  numTrainTimesteps: 1000,
  betaStart: 0.00085,
  betaEnd: 0.012,
  betaSchedule: 'scaled_linear',
  predictionType: 'epsilon',
  timestepSpacing: 'leading',
  stepsOffset: 1,
  setAlphaToOne: false,
  rescaleBetasZeroSnr: false,
}

/** The training schedule in a scheduler_config.json. Throws `wrong_architecture` for another kind of diffusion. */
export function schedulerConfigOf(options: Options): SchedulerConfig {
  const { _class_name: name } = options.values
  if (typeof name === 'string' && /flow|edm/i.test(name))
    throw unsupported(options, '_class_name', 'supported: the samplers of Stable Diffusion XL')
  for (const key of ['clip_sample', 'thresholding', 'use_flow_sigmas'])
    if (flag(options, key, false)) throw unsupported(options, key, 'supported: false')
  const { trained_betas: betas } = options.values
  if (betas !== undefined && betas !== null) throw unsupported(options, 'trained_betas', 'supported: null')
  const sdxl = sdxlSchedulerConfig
  return {
    numTrainTimesteps: count(options, 'num_train_timesteps', sdxl.numTrainTimesteps),
    betaStart: fraction(options, 'beta_start', sdxl.betaStart),
    betaEnd: fraction(options, 'beta_end', sdxl.betaEnd),
    betaSchedule: choice(options, 'beta_schedule', ['linear', 'scaled_linear'], sdxl.betaSchedule),
    predictionType: choice(options, 'prediction_type', ['epsilon', 'v_prediction', 'sample'], sdxl.predictionType),
    timestepSpacing: choice(options, 'timestep_spacing', ['leading', 'trailing', 'linspace'], sdxl.timestepSpacing),
    stepsOffset: index(options, 'steps_offset', sdxl.stepsOffset),
    setAlphaToOne: flag(options, 'set_alpha_to_one', sdxl.setAlphaToOne),
    rescaleBetasZeroSnr: flag(options, 'rescale_betas_zero_snr', sdxl.rescaleBetasZeroSnr),
  }
}
