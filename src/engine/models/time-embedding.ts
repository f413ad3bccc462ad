import { tensor, zeros, type Tensor } from '#tensor/tensor.ts'
import type { UNetConfig } from './unet-config.ts'

type EmbeddingOptions = Pick<UNetConfig, 'flipSinToCos' | 'freqShift'>

/**
 * Sinusoidal embedding of numbers, `dim` values each: sines and cosines of value × 10000^(−i/half)
 * (arXiv 1706.03762, section 3.5, in the order and rounding of diffusers' get_timestep_embedding). (N) → (N, dim)
 */
export function sinusoidalEmbedding(values: readonly number[], dim: number, options: EmbeddingOptions): Tensor {
  const result = zeros([values.length, dim])
  values.forEach((value, row) => embed(value, row * dim, dim, options, result.data))
  return result
}

/** Write the embedding of one number into `data` from `start` on. */
function embed(value: number, start: number, dim: number, options: EmbeddingOptions, data: Float32Array): void {
  const half = Math.floor(dim / 2)
  const sinAt = start + (options.flipSinToCos ? half : 0)
  const cosAt = start + (options.flipSinToCos ? 0 : half)
  for (let i = 0; i < half; i++) {
    const exponent = Math.fround(Math.fround(-Math.log(10000) * i) / (half - options.freqShift))
    const angle = Math.fround(Math.fround(value) * Math.fround(Math.exp(exponent)))
    data[sinAt + i] = Math.sin(angle)
    data[cosAt + i] = Math.cos(angle)
  }
}

/**
 * The UNet's `time_proj` input for one timestep, the same for each of `batch` rows, written into `out` where that is
 * given. (B, timeProjDim)
 */
export function timeProjection(config: UNetConfig, timestep: number, batch: number, out?: Tensor): Tensor {
  const { timeProjDim } = config
  const result = out ?? zeros([batch, timeProjDim])
  embed(timestep, 0, timeProjDim, config, result.data)
  for (let row = 1; row < batch; row++) result.data.copyWithin(row * timeProjDim, 0, timeProjDim)
  return result
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
