// What the network's output says about the clean picture x₀, for the two ways of writing noisy latents. All in fp32, one
// rounding an operation, as the reference computes.
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'

const { fround } = Math

/** (noisy sample, network output) → x₀, for one element. */
export type PredictOriginal = (sample: number, output: number) => number

/** For x = x₀ + σ·noise (variance exploding: the Euler family). */
export function originalFromSigma(predictionType: SchedulerConfig['predictionType'], sigma: number): PredictOriginal {
  const variance = fround(fround(sigma * sigma) + 1)
  const outputScale = fround(-sigma / fround(Math.sqrt(variance)))
  switch (predictionType) {
    case 'epsilon':
      return (sample, output) => fround(sample - fround(sigma * output))
    case 'v_prediction':
      return (sample, output) => fround(fround(output * outputScale) + fround(sample / variance))
    case 'sample':
      return (_, output) => output
    default:
      return predictionType satisfies never
  }
}

/** For x = α·x₀ + σ·noise with α² + σ² = 1 (variance preserving: the DPM-Solver family). */
export function originalFromAlphaSigma(
  predictionType: SchedulerConfig['predictionType'],
  alpha: number,
  sigma: number,
): PredictOriginal {
  switch (predictionType) {
    case 'epsilon':
      return (sample, output) => fround(fround(sample - fround(sigma * output)) / alpha)
    case 'v_prediction':
      return (sample, output) => fround(fround(alpha * sample) - fround(sigma * output))
    case 'sample':
      return (_, output) => output
    default:
      return predictionType satisfies never
  }
}
