import { tensor, type Tensor } from '#tensor/tensor.ts'
import { AppError } from '../../errors.ts'

const { fround } = Math

/**
 * Hidden states with each token's weight applied: h′ = h_last + (h − h_last)·w, where h_last is the chunk's last position.
 * `hidden` is (chunks, T, C), `weights` T values a chunk; the result has the shape of `hidden`. Where w is 1 the very same
 * numbers stay, so that a prompt without brackets is the reference's.
 */
export function applyTokenWeights(hidden: Tensor, weights: readonly Float32Array[]): Tensor {
  const [chunks, length, channels] = hidden.shape
  if (hidden.shape.length !== 3 || weights.length !== chunks || weights.some((chunk) => chunk.length !== length))
    throw new AppError(
      'internal',
      `applyTokenWeights: weights of ${weights.map((chunk) => chunk.length).join()} tokens for [${hidden.shape.join()}]`,
    )
  const data = hidden.data.slice()
  for (const [chunk, tokenWeights] of weights.entries()) {
    const last = (chunk * length + length - 1) * channels
    for (const [position, weight] of tokenWeights.entries()) {
      if (weight === 1) continue
      const start = (chunk * length + position) * channels
      for (let c = 0; c < channels; c++) {
        const base = hidden.data[last + c]
        data[start + c] = base + fround(fround(hidden.data[start + c] - base) * weight)
      }
    }
  }
  return tensor(hidden.shape, data)
}
