// diffusers' scheduler_config.json. Which algorithm runs is the user's choice of a sampler; what the model was trained
// with stands here.
import { choice, count, flag, fraction, index, positive, unsupported, type Options } from './config-options.ts'
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
  useKarrasSigmas: false,
  finalSigmasType: 'zero',
  clipSampleRange: null,
}

/** The training schedule in a scheduler_config.json. Throws `wrong_architecture` for another kind of diffusion. */
export function schedulerConfigOf(options: Options): SchedulerConfig {
  const { _class_name: name } = options.values
  if (typeof name === 'string' && /flow|edm/i.test(name))
    throw unsupported(options, '_class_name', 'supported: the samplers of Stable Diffusion XL')
  for (const key of ['thresholding', 'use_flow_sigmas', 'use_exponential_sigmas', 'use_beta_sigmas', 'use_lu_lambdas'])
    if (flag(options, key, false)) throw unsupported(options, key, 'supported: false')
  for (const key of ['trained_betas', 'sigma_min', 'sigma_max', 'variance_type', 'shift_terminal']) {
    const value = options.values[key]
    if (value === undefined || value === null || (key === 'variance_type' && value === 'fixed_small')) continue
    throw unsupported(options, key, 'supported: null')
  }
  const { lambda_min_clipped: lowest = null } = options.values
  if (lowest !== null && lowest !== -Infinity) throw unsupported(options, 'lambda_min_clipped', 'supported: -Infinity')
  choice(options, 'interpolation_type', ['linear'], 'linear')
  choice(options, 'timestep_type', ['discrete'], 'discrete')
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
    useKarrasSigmas: flag(options, 'use_karras_sigmas', sdxl.useKarrasSigmas),
    finalSigmasType: choice(options, 'final_sigmas_type', ['zero', 'sigma_min'], sdxl.finalSigmasType),
    clipSampleRange: flag(options, 'clip_sample', false) ? positive(options, 'clip_sample_range', 1) : null,
  }
}
