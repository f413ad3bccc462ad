// Latents → picture. Where the decoder's memory does not allow the whole picture at once, it is decoded in tiles of one
// size that overlap and are blended into each other.
import { vaeScaleFactor, type VaeConfig } from '#engine/models/vae-config.ts'
import type { VaeDecoder } from '#engine/networks/vae-decoder.ts'
import { tensor, zeros, type Tensor } from '#tensor/tensor.ts'
import { checkFinite } from './check-finite.ts'
import type { Networks } from './networks.ts'

/** Part of a tile's edge that overlaps the next tile at least. */
const overlapFraction = 0.25

/** Latents (1, C, h, w) as the scheduler leaves them → picture (1, 3, H, W), about −1..1. */
export async function decodeLatents(networks: Networks, config: VaeConfig, latents: Tensor): Promise<Tensor> {
  const [, , height, width] = latents.shape as [number, number, number, number]
  const unscaled = unscaleLatents(config, latents)
  const limit = await networks.decodeEdgeLimit({ height, width })
  const tile = { height: Math.min(height, limit ?? height), width: Math.min(width, limit ?? width) }
  const decoder = await networks.vaeDecoder(tile)
  const whole = tile.height === height && tile.width === width
  const image = whole
    ? await decoder.decode(unscaled)
    : await decodeTiles(decoder, vaeScaleFactor(config), unscaled, tile)
  checkFinite(image, 'the decoded picture')
  return image
}

/** Undo the scaling that training gave the latents: by channel statistics where the VAE has them, else by two numbers. */
export function unscaleLatents(config: VaeConfig, latents: Tensor): Tensor {
  const { latentsMean, latentsStd, scalingFactor, shiftFactor } = config
  const [, channels] = latents.shape as [number, number, number, number]
  const size = latents.data.length / channels
  const data = new Float32Array(latents.data.length)
  for (let channel = 0; channel < channels; channel++) {
    const deviation = latentsStd?.[channel] ?? 1
    const shift = latentsMean?.[channel] ?? shiftFactor ?? 0
    for (let i = channel * size; i < (channel + 1) * size; i++)
      data[i] = Math.fround(Math.fround(latents.data[i] * deviation) / scalingFactor) + shift
  }
  return tensor(latents.shape, data)
}

async function decodeTiles(
  decoder: VaeDecoder,
  factor: number,
  latents: Tensor,
  tile: { readonly height: number; readonly width: number },
): Promise<Tensor> {
  const [, , height, width] = latents.shape as [number, number, number, number]
  const [outHeight, outWidth] = [height * factor, width * factor]
  const sum = zeros([1, 3, outHeight, outWidth])
  const total = new Float32Array(outHeight * outWidth)
  for (const top of tileStarts(height, tile.height)) {
    for (const left of tileStarts(width, tile.width)) {
      const image = await decoder.decode(cut(latents, top, left, tile.height, tile.width))
      const rows = ramp(tile.height * factor, top > 0, top + tile.height < height)
      const columns = ramp(tile.width * factor, left > 0, left + tile.width < width)
      for (let y = 0; y < rows.length; y++) {
        for (let x = 0; x < columns.length; x++) {
          const weight = rows[y] * columns[x]
          const at = (top * factor + y) * outWidth + left * factor + x
          total[at] += weight
          for (let channel = 0; channel < 3; channel++)
            sum.data[channel * outHeight * outWidth + at] +=
              weight * image.data[(channel * rows.length + y) * columns.length + x]
        }
      }
    }
  }
  for (let i = 0; i < sum.data.length; i++) sum.data[i] /= total[i % total.length]
  return sum
}

/** First rows of tiles of `size` that cover `length` evenly and overlap by a quarter at least. */
export function tileStarts(length: number, size: number): number[] {
  if (size >= length) return [0]
  const count = 1 + Math.ceil((length - size) / Math.max(1, Math.floor(size * (1 - overlapFraction))))
  return Array.from({ length: count }, (_, index) => Math.round((index * (length - size)) / (count - 1)))
}

/** Blending weights along one edge: rising and falling over the least overlap where there is a neighbour. */
function ramp(length: number, hasBefore: boolean, hasAfter: boolean): Float32Array {
  const over = Math.floor(length * overlapFraction)
  return Float32Array.from({ length }, (_, i) => {
    const rise = hasBefore ? Math.min(1, (i + 0.5) / over) : 1
    const fall = hasAfter ? Math.min(1, (length - i - 0.5) / over) : 1
    return Math.min(rise, fall)
  })
}

function cut(latents: Tensor, top: number, left: number, height: number, width: number): Tensor {
  const [, channels, fullHeight, fullWidth] = latents.shape as [number, number, number, number]
  const data = new Float32Array(channels * height * width)
  for (let channel = 0; channel < channels; channel++) {
    for (let row = 0; row < height; row++) {
      const from = (channel * fullHeight + top + row) * fullWidth + left
      data.set(latents.data.subarray(from, from + width), (channel * height + row) * width)
    }
  }
  return tensor([1, channels, height, width], data)
}
