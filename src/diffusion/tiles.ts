// A VAE run piece by piece: tiles of one size that overlap and are blended into each other, for memory that does not hold
// the whole picture's activations.
import { tensor, zeros, type Tensor } from '#tensor/tensor.ts'

/** Latent rows and columns. */
type Size = { readonly height: number; readonly width: number }

/** How a run is cut: the sizes in latents, and how many elements of input and output a latent's edge is. */
export type Tiling = {
  readonly whole: Size
  readonly tile: Size
  readonly inputFactor: number
  readonly outputFactor: number
}

/** Part of a tile's edge that overlaps the next tile at least. */
const overlapFraction = 0.25

/** Run a network over tiles of `input` (1, C, H, W) and blend what they give. */
export async function runInTiles(
  input: Tensor,
  { whole, tile, inputFactor, outputFactor }: Tiling,
  run: (tile: Tensor) => Promise<Tensor>,
): Promise<Tensor> {
  const [outHeight, outWidth] = [whole.height * outputFactor, whole.width * outputFactor]
  const plane = outHeight * outWidth
  const total = new Float32Array(plane)
  let sum: Tensor | null = null
  for (const top of tileStarts(whole.height, tile.height)) {
    for (const left of tileStarts(whole.width, tile.width)) {
      const part = await run(cut(input, { top, left, ...tile }, inputFactor))
      const channels = part.shape[1]
      sum ??= zeros([1, channels, outHeight, outWidth])
      const rows = ramp(tile.height * outputFactor, top > 0, top + tile.height < whole.height)
      const columns = ramp(tile.width * outputFactor, left > 0, left + tile.width < whole.width)
      for (let y = 0; y < rows.length; y++) {
        for (let x = 0; x < columns.length; x++) {
          const weight = rows[y] * columns[x]
          const at = (top * outputFactor + y) * outWidth + left * outputFactor + x
          total[at] += weight
          for (let channel = 0; channel < channels; channel++)
            sum.data[channel * plane + at] += weight * part.data[(channel * rows.length + y) * columns.length + x]
        }
      }
    }
  }
  for (let i = 0; i < sum!.data.length; i++) sum!.data[i] /= total[i % plane]
  return sum!
}

/** First rows of tiles of `size` that cover `length` evenly and overlap by a quarter at least. */
export function tileStarts(length: number, size: number): number[] {
  if (size >= length) return [0]
  const count = 1 + Math.ceil((length - size) / Math.max(1, Math.floor(size * (1 - overlapFraction))))
  return Array.from({ length: count }, (_, index) => Math.round((index * (length - size)) / (count - 1)))
}

/** Blending weights along one edge: rising and falling over the least overlap where there is a neighbour. */
function ramp(length: number, hasBefore: boolean, hasAfter: boolean): Float32Array {
  const over = length * overlapFraction
  return Float32Array.from({ length }, (_, i) => {
    const rise = hasBefore ? Math.min(1, (i + 0.5) / over) : 1
    const fall = hasAfter ? Math.min(1, (length - i - 0.5) / over) : 1
    return Math.min(rise, fall)
  })
}

function cut(
  input: Tensor,
  { top, left, height, width }: Size & { top: number; left: number },
  factor: number,
): Tensor {
  const [, channels, fullHeight, fullWidth] = input.shape as [number, number, number, number]
  const [rows, columns] = [height * factor, width * factor]
  const data = new Float32Array(channels * rows * columns)
  for (let channel = 0; channel < channels; channel++) {
    for (let row = 0; row < rows; row++) {
      const from = (channel * fullHeight + top * factor + row) * fullWidth + left * factor
      data.set(input.data.subarray(from, from + columns), (channel * rows + row) * columns)
    }
  }
  return tensor([1, channels, rows, columns], data)
}
