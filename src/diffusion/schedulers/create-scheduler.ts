import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { requireSteps, samplers, type SamplerName, type SamplerSettings } from '../samplers.ts'
import { ddim } from './ddim.ts'
import { dpmSolverMultistep } from './dpm-solver-multistep.ts'
import { eulerAncestral } from './euler-ancestral.ts'
import { euler } from './euler.ts'
import type { Scheduler } from './scheduler.ts'

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
  switch (settings.algorithm) {
    case 'ddim':
      return ddim(config, numInferenceSteps)
    case 'euler':
      return euler(config, numInferenceSteps)
    case 'eulerAncestral':
      return eulerAncestral(config, numInferenceSteps)
    case 'dpmSolverMultistep':
      return dpmSolverMultistep(config, numInferenceSteps, begin, settings)
    default:
      return settings satisfies never
  }
}
