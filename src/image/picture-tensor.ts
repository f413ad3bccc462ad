// Pixels → what the networks see, in the reference's fp32 arithmetic.
import type { Tensor } from '#tensor/tensor.ts'
import type { GrayPixels, Pixels } from './codec.ts'

/** v/255 in fp32. */
const unit = Float32Array.from({ length: 256 }, (_, value) => value / 255)

/** The picture as (1, 3, H, W) in [-1, 1]: 2 · v/255 - 1, each step rounded to fp32. */
export function toPictureTensor({ width, height, data }: Pixels): Tensor {
  const signed = unit.map((value) => 2 * value - 1)
  const plane = width * height
  const result = new Float32Array(3 * plane)
  for (let i = 0, at = 0; i < plane; i++, at += 3) {
    result[i] = signed[data[at]]
    result[plane + i] = signed[data[at + 1]]
    result[2 * plane + i] = signed[data[at + 2]]
  }
  return { shape: [1, 3, height, width], data: result }
}

/** The mask as (1, 1, H, W): 1 (repaint) where v/255 ≥ 0.5, else 0. */
export function toMaskTensor({ width, height, data }: GrayPixels): Tensor {
  return { shape: [1, 1, height, width], data: Float32Array.from(data, (value) => (unit[value] >= 0.5 ? 1 : 0)) }
}

/** A mask (1, 1, H, W) at the latents' size: the nearest sample above and left, as torch's `interpolate` picks it. */
export function latentMask(mask: Tensor, height: number, width: number): Tensor {
  const [, , sourceHeight, sourceWidth] = mask.shape
  const rows = nearestIndices(sourceHeight, height)
  const columns = nearestIndices(sourceWidth, width)
  const data = new Float32Array(height * width)
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) data[y * width + x] = mask.data[rows[y] * sourceWidth + columns[x]]
  return { shape: [1, 1, height, width], data }
}

/** floor(i · scale) with scale = source/size in fp32, which decides at sizes that do not divide. */
function nearestIndices(source: number, size: number): number[] {
  const scale = Math.fround(source / size)
  return Array.from({ length: size }, (_, i) => Math.min(Math.floor(Math.fround(i * scale)), source - 1))
}
