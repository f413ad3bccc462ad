// DPM-Solver++(2M) and its stochastic variant: each step uses the view of the picture at the step before as well.
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { dpmSolverStep } from './dpm-solver-step.ts'
import { originalFromAlphaSigma } from './predicted-original.ts'
import { runBuffer } from './run-buffer.ts'
import type { Scheduler } from './scheduler.ts'
import { solverRun } from './solver-run.ts'

const { fround } = Math

/** From so many steps on the last one is of second order, unless it ends without noise, where that has no limit. */
const manySteps = 15

/**
 * A DPM-Solver++(2M) run of `steps` steps from evaluation `begin` on; `sde` draws noise at each. Throws bad_argument when
 * the model's schedule cannot give them.
 */
export function dpmSolverMultistep(
  config: SchedulerConfig,
  steps: number,
  begin: number,
  options: { readonly karrasSigmas: boolean; readonly sde: boolean },
): Scheduler {
  const { levels, ...run } = solverRun(config, steps, options)
  const views = [runBuffer(), runBuffer()]
  const lastIsFirstOrder = config.finalSigmasType === 'zero' || steps < manySteps
  return {
    ...run,
    step(modelOutput, index, sample, noise) {
      const [here, next] = [levels[index], levels[index + 1]]
      const original = views[index % 2](sample.length)
      originalFromAlphaSigma(config.predictionType, here.alpha, here.sigma, sample, modelOutput, original)
      const fresh = options.sde ? noise() : null
      if (index === begin || (index === steps - 1 && lastIsFirstOrder))
        return dpmSolverStep(sample, here, next, { original, slope: null }, fresh)
      const h = fround(next.lambda - here.lambda)
      const ratio = fround(fround(here.lambda - levels[index - 1].lambda) / h)
      const earlier = views[(index + 1) % 2](sample.length)
      dpmSolverStep(sample, here, next, { original, slope: { later: original, earlier, ratio } }, fresh)
    },
  }
}
