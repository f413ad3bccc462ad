// Which training timesteps a short run visits: Table 2 of "Common Diffusion Noise Schedules and Sample Steps are Flawed"
// (arXiv 2305.08891), with numpy's rounding.
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { AppError } from '../../errors.ts'

/** How the timesteps of `linspace`, which are fractional, are rounded: to whole numbers, to fp32, or not at all. */
export type TimestepRounding = 'whole' | 'single' | 'double'

const roundings: Record<TimestepRounding, (timestep: number) => number> = {
  whole: roundHalfEven,
  single: Math.fround,
  double: (timestep) => timestep,
}

/** `count` timesteps from noisy to clean by the model's spacing. Throws bad_argument when the model was not trained on so many. */
export function spacedTimesteps(
  config: SchedulerConfig,
  count: number,
  rounding: TimestepRounding,
  timestepSpacing = config.timestepSpacing,
): number[] {
  const { numTrainTimesteps, stepsOffset } = config
  if (count > numTrainTimesteps)
    throw new AppError(
      'bad_argument',
      `steps: ${count} is more than this model's ${numTrainTimesteps} training timesteps`,
    )
  const timesteps = rising(count)
  for (const timestep of timesteps)
    if (timestep < 0 || timestep > numTrainTimesteps - 1)
      throw new AppError(
        'bad_argument',
        `steps: ${count} with ${timestepSpacing} spacing asks for timestep ${timestep}, outside 0..${numTrainTimesteps - 1}`,
      )
  return timesteps.toReversed()

  function rising(count: number): number[] {
    switch (timestepSpacing) {
      case 'leading': {
        const stride = Math.floor(numTrainTimesteps / count)
        return Array.from({ length: count }, (_, i) => i * stride + stepsOffset)
      }
      case 'trailing': {
        // Counted down as numpy.arange does. For some counts that gives one entry more by rounding, which is no timestep.
        const stride = numTrainTimesteps - (numTrainTimesteps - numTrainTimesteps / count)
        return Array.from({ length: count }, (_, i) => roundHalfEven(numTrainTimesteps - (count - 1 - i) * stride) - 1)
      }
      case 'linspace':
        return linspace(0, numTrainTimesteps - 1, count).map(roundings[rounding])
      default:
        return timestepSpacing satisfies never
    }
  }
}

/** `count` evenly spaced values, both ends included; only `start` when one is asked for. */
export function linspace(start: number, stop: number, count: number): number[] {
  const step = (stop - start) / (count - 1)
  return Array.from({ length: count }, (_, i) => (i === count - 1 && i > 0 ? stop : i === 0 ? start : i * step + start))
}

/** The nearest whole number; halves go to the even one. */
export function roundHalfEven(value: number): number {
  const below = Math.floor(value)
  const rest = value - below
  if (rest !== 0.5) return rest < 0.5 ? below : below + 1
  return below % 2 === 0 ? below : below + 1
}
