// What the network's output says about the clean picture x₀ and about the noise, for the two ways of writing noisy latents.
// All in fp32, one rounding an operation, as the reference computes.
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'

const { fround } = Math

type PredictionType = SchedulerConfig['predictionType']

/** Writes x₀ into `out` for x = x₀ + σ·noise (variance exploding: the Euler family). `out` may be the output's array. */
export function originalFromSigma(
  predictionType: PredictionType,
  sigma: number,
  sample: Float32Array,
  output: Float32Array,
  out: Float32Array,
): void {
  switch (predictionType) {
    case 'epsilon':
      for (let i = 0; i < out.length; i++) out[i] = sample[i] - fround(sigma * output[i])
      return
    case 'v_prediction': {
      const variance = fround(fround(sigma * sigma) + 1)
      const scale = fround(-sigma / fround(Math.sqrt(variance)))
      for (let i = 0; i < out.length; i++) out[i] = fround(output[i] * scale) + fround(sample[i] / variance)
      return
    }
    case 'sample':
      out.set(output)
      return
    default:
      predictionType satisfies never
  }
}

/** Writes x₀ into `out` for x = α·x₀ + σ·noise with α² + σ² = 1 (variance preserving: DDIM, the DPM-Solver family). */
export function originalFromAlphaSigma(
  predictionType: PredictionType,
  alpha: number,
  sigma: number,
  sample: Float32Array,
  output: Float32Array,
  out: Float32Array,
): void {
  switch (predictionType) {
    case 'epsilon':
      for (let i = 0; i < out.length; i++) out[i] = fround(sample[i] - fround(sigma * output[i])) / alpha
      return
    case 'v_prediction':
      for (let i = 0; i < out.length; i++) out[i] = fround(alpha * sample[i]) - fround(sigma * output[i])
      return
    case 'sample':
      out.set(output)
      return
    default:
      predictionType satisfies never
  }
}

/** Writes the noise into `out` for x = α·x₀ + σ·noise with α² + σ² = 1. */
export function noiseFromAlphaSigma(
  predictionType: PredictionType,
  alpha: number,
  sigma: number,
  sample: Float32Array,
  output: Float32Array,
  out: Float32Array,
): void {
  switch (predictionType) {
    case 'epsilon':
      out.set(output)
      return
    case 'v_prediction':
      for (let i = 0; i < out.length; i++) out[i] = fround(alpha * output[i]) + fround(sigma * sample[i])
      return
    case 'sample':
      for (let i = 0; i < out.length; i++) out[i] = fround(sample[i] - fround(alpha * output[i])) / sigma
      return
    default:
      predictionType satisfies never
  }
}

/** Clips values in place to ± `range`; does nothing when that is null. */
export function clip(values: Float32Array, range: number | null): void {
  if (range === null) return
  for (let i = 0; i < values.length; i++) values[i] = Math.min(Math.max(values[i], -range), range)
}
