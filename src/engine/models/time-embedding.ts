import { tensor, type Tensor } from '#tensor/tensor.ts'
import type { UNetConfig } from './unet-config.ts'

/**
 * Sinusoidal embedding of numbers, `dim` values each: sines and cosines of value × 10000^(−i/half)
 * (arXiv 1706.03762, section 3.5, in the order and rounding of diffusers' get_timestep_embedding). (N) → (N, dim)
 */
export function sinusoidalEmbedding(
  values: readonly number[],
  dim: number,
  { flipSinToCos, freqShift }: Pick<UNetConfig, 'flipSinToCos' | 'freqShift'>,
): Tensor {
  const half = Math.floor(dim / 2)
  const data = new Float32Array(values.length * dim)
  const [sinAt, cosAt] = flipSinToCos ? [half, 0] : [0, half]
  for (let i = 0; i < half; i++) {
    const exponent = Math.fround(Math.fround(-Math.log(10000) * i) / (half - freqShift))
    const frequency = Math.fround(Math.exp(exponent))
    values.forEach((value, row) => {
      const angle = Math.fround(Math.fround(value) * frequency)
      data[row * dim + sinAt + i] = Math.sin(angle)
      data[row * dim + cosAt + i] = Math.cos(angle)
    })
  }
  return tensor([values.length, dim], data)
}

/** The UNet's `time_proj` input for one timestep, the same for each of `batch` rows. (B, timeProjDim) */
export function timeProjection(config: UNetConfig, timestep: number, batch: number): Tensor {
  return sinusoidalEmbedding(
    Array.from({ length: batch }, () => timestep),
    config.timeProjDim,
    config,
  )
}

/** The UNet's `add_embeds` input: pooled text embeddings followed by the embedded time ids. (B, addEmbeddingInputDim) */
export function addEmbeds(config: UNetConfig, pooled: Tensor, timeIds: readonly (readonly number[])[]): Tensor {
  const [batch, width] = pooled.shape as [number, number]
  const rows = timeIds.map((ids) => sinusoidalEmbedding(ids, config.additionTimeEmbedDim, config).data)
  const data = new Float32Array(batch * config.addEmbeddingInputDim)
  for (let row = 0; row < batch; row++) {
    data.set(pooled.data.subarray(row * width, (row + 1) * width), row * config.addEmbeddingInputDim)
    data.set(rows[row], row * config.addEmbeddingInputDim + width)
  }
  return tensor([batch, config.addEmbeddingInputDim], data)
}
