// Multistep consistency sampling: "Latent Consistency Models" (arXiv 2310.04378), Algorithm 3, with the boundary
// conditions of "Consistency Models" (arXiv 2303.01469), equation 5, scaled by ten as the reference does.
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { AppError } from '../../errors.ts'
import { alphaRun, sharesOf } from './alpha-run.ts'
import { clip, originalFromAlphaSigma } from './predicted-original.ts'
import { runBuffer } from './run-buffer.ts'
import type { Scheduler } from './scheduler.ts'

const { fround } = Math

/** Steps of the solver that such models are distilled from; a run visits some of its timesteps. */
const originalSteps = 50
const timestepScaling = 10
/** The deviation of pictures' data, squared. */
const dataVariance = 0.25

/** An LCM run of `steps` steps, at most 50, which draws noise at each but the last. Throws bad_argument where it cannot be. */
export function lcm(config: SchedulerConfig, steps: number): Scheduler {
  const { alphas, ...run } = alphaRun(config, distilledTimesteps(config, steps))
  const originals = runBuffer()
  return {
    ...run,
    order: 1,
    step(modelOutput, index, sample, noise) {
      const timestep = run.timesteps[index]
      const { signal, noise: noiseShare } = sharesOf(alphas[timestep])
      const original = originals(sample.length)
      originalFromAlphaSigma(config.predictionType, signal, noiseShare, sample, modelOutput, original)
      clip(original, config.clipSampleRange)
      const square = fround(fround((timestep * timestepScaling) ** 2) + dataVariance)
      const skip = fround(dataVariance / square)
      const out = fround(fround(timestep * timestepScaling) / fround(Math.sqrt(square)))
      for (let i = 0; i < sample.length; i++) sample[i] = fround(out * original[i]) + fround(skip * sample[i])
      if (index === steps - 1) return
      const next = sharesOf(alphas[run.timesteps[index + 1]])
      const fresh = noise()
      for (let i = 0; i < sample.length; i++)
        sample[i] = fround(next.signal * sample[i]) + fround(next.noise * fresh[i])
    },
  }
}

function distilledTimesteps({ numTrainTimesteps }: SchedulerConfig, steps: number): number[] {
  const stride = Math.floor(numTrainTimesteps / originalSteps)
  if (stride === 0)
    throw new AppError(
      'bad_argument',
      `sampler: LCM needs a model with ${originalSteps} or more training timesteps; this one has ${numTrainTimesteps}`,
    )
  return Array.from({ length: steps }, (_, i) => {
    const skipped = Math.floor(i * (originalSteps / steps))
    return (originalSteps - skipped) * stride - 1
  })
}
