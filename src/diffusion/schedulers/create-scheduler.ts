import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { AppError } from '../../errors.ts'
import { requireSteps, samplers, type SamplerName, type SamplerSettings } from '../samplers.ts'
import { ddim } from './ddim.ts'
import { ddpm } from './ddpm.ts'
import { dpmSolverMultistep } from './dpm-solver-multistep.ts'
import { dpmSolverSde } from './dpm-solver-sde.ts'
import { dpmSolverSinglestep } from './dpm-solver-singlestep.ts'
import { eulerAncestral } from './euler-ancestral.ts'
import { euler } from './euler.ts'
import { heun } from './heun.ts'
import { kdpm2 } from './kdpm2.ts'
import { lcm } from './lcm.ts'
import { lms } from './lms.ts'
import { pndm } from './pndm.ts'
import type { Scheduler } from './scheduler.ts'
import { uniPc } from './uni-pc.ts'

/**
 * A fresh run of `numInferenceSteps` steps by the named sampler on the model's noise schedule, for one picture. Numbers
 * are those of diffusers' class for the sampler, built from the same configuration. `begin` is the first evaluation of the
 * run, an index of its `timesteps`: above 0 where noisy latents come from elsewhere, as in image to image. Throws
 * bad_argument when the sampler does not take so many steps or cannot work with the model's schedule.
 */
export function createScheduler(
  sampler: SamplerName,
  config: SchedulerConfig,
  numInferenceSteps: number,
  begin = 0,
): Scheduler {
  requireSteps(sampler, numInferenceSteps)
  const settings: SamplerSettings = samplers[sampler]
  requirePrediction(sampler, settings, config)
  const scheduler = build(settings, config, numInferenceSteps, begin)
  const { timesteps, order } = scheduler
  if (!Number.isInteger(begin) || begin < 0 || begin >= timesteps.length || begin % order !== 0)
    throw new AppError('internal', `scheduler: evaluation ${begin} begins no step of ${timesteps.length} evaluations`)
  requireSignal(sampler, settings, config, timesteps.slice(begin))
  let expected = begin
  return {
    ...scheduler,
    step(modelOutput, index, sample, noise) {
      if (index !== expected)
        throw new AppError('internal', `scheduler: evaluation ${index} was called instead of ${expected}`)
      expected += 1
      scheduler.step(modelOutput, index, sample, noise)
    },
  }
}

function build(settings: SamplerSettings, config: SchedulerConfig, steps: number, begin: number): Scheduler {
  const karrasSigmas = config.useKarrasSigmas || ('karrasSigmas' in settings && settings.karrasSigmas === true)
  switch (settings.algorithm) {
    case 'ddim':
      return ddim(config, steps)
    case 'ddpm':
      return ddpm(config, steps)
    case 'pndm':
      return pndm(config, steps, begin)
    case 'lcm':
      return lcm(config, steps)
    case 'euler':
      return euler(config, steps)
    case 'eulerAncestral':
      return eulerAncestral(config, steps)
    case 'lms':
      return lms(config, steps, begin, { karrasSigmas })
    case 'heun':
      return heun(config, steps, { karrasSigmas })
    case 'kdpm2':
      return kdpm2(config, steps, { karrasSigmas, ancestral: settings.ancestral })
    case 'dpmSolverMultistep':
      return dpmSolverMultistep(config, steps, begin, { karrasSigmas, sde: settings.sde })
    case 'dpmSolverSinglestep':
      return dpmSolverSinglestep(config, steps, begin, { karrasSigmas })
    case 'uniPc':
      return uniPc(config, steps, begin, { karrasSigmas })
    case 'dpmSolverSde':
      return dpmSolverSde(config, steps, { karrasSigmas })
    default:
      return settings satisfies never
  }
}

/** Methods that the reference does not define for a network which predicts the picture itself. */
const needNoise: ReadonlySet<SamplerSettings['algorithm']> = new Set([
  'pndm',
  'eulerAncestral',
  'kdpm2',
  'dpmSolverSde',
])

function requirePrediction(sampler: SamplerName, { algorithm }: SamplerSettings, config: SchedulerConfig): void {
  if (config.predictionType === 'sample' && needNoise.has(algorithm))
    throw new AppError(
      'bad_argument',
      `sampler: ${sampler} needs a model that predicts epsilon or v_prediction; this one predicts sample`,
    )
}

/** Where nothing of the picture is left, √ᾱ is 0: methods that divide by it cannot start there. */
function requireSignal(
  sampler: SamplerName,
  { algorithm }: SamplerSettings,
  config: SchedulerConfig,
  timesteps: readonly number[],
): void {
  if (!config.rescaleBetasZeroSnr || !timesteps.includes(config.numTrainTimesteps - 1)) return
  if (algorithm === 'pndm')
    throw new AppError('bad_argument', `sampler: PNDM cannot start from zero terminal SNR (timestep ${timesteps[0]})`)
  if (config.predictionType === 'epsilon' && ['ddim', 'ddpm', 'lcm'].includes(algorithm))
    throw new AppError(
      'bad_argument',
      `sampler: ${sampler} cannot start from zero terminal SNR (timestep ${timesteps[0]}) with a model that predicts epsilon`,
    )
}
