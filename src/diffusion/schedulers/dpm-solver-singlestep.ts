// DPM-Solver++(2S): pairs of evaluations, of which the second takes the whole way again from the first one's start.
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { dpmSolverStep } from './dpm-solver-step.ts'
import { originalFromAlphaSigma } from './predicted-original.ts'
import { runBuffer } from './run-buffer.ts'
import type { Scheduler } from './scheduler.ts'
import { solverRun } from './solver-run.ts'

const { fround } = Math

/** A run of `steps` evaluations from `begin` on. Throws bad_argument when the model's schedule cannot give them. */
export function dpmSolverSinglestep(
  config: SchedulerConfig,
  steps: number,
  begin: number,
  options: { readonly karrasSigmas: boolean },
): Scheduler {
  // The reference spaces these timesteps evenly whatever the model says.
  const { levels, ...run } = solverRun(config, steps, { ...options, spacing: 'linspace' })
  const isSecondOrder = secondOrderSteps(config, steps)
  const views = [runBuffer(), runBuffer()]
  const starts = runBuffer()
  return {
    ...run,
    step(modelOutput, index, sample) {
      const [here, next] = [levels[index], levels[index + 1]]
      const original = views[index % 2](sample.length)
      originalFromAlphaSigma(config.predictionType, here.alpha, here.sigma, sample, modelOutput, original)
      const start = starts(sample.length)
      if (index === begin || !isSecondOrder[index]) {
        start.set(sample)
        return dpmSolverStep(sample, here, next, { original, slope: null }, null)
      }
      const base = levels[index - 1]
      const earlier = views[(index + 1) % 2](sample.length)
      const ratio = fround(fround(here.lambda - base.lambda) / fround(next.lambda - base.lambda))
      sample.set(start)
      dpmSolverStep(sample, base, next, { original: earlier, slope: { later: original, earlier, ratio } }, null)
    },
  }
}

/** Every second evaluation ends a pair; the last does only where the run ends with some noise and the pairs come out even. */
function secondOrderSteps(config: SchedulerConfig, steps: number): readonly boolean[] {
  const endsInPair = config.finalSigmasType === 'sigma_min'
  return Array.from({ length: steps }, (_, index) => index % 2 === 1 && (index < steps - 1 || endsInPair))
}
