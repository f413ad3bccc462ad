// What is painted into a hole often comes out a shade lighter or darker than what is round it, and the eye finds the hole
// by that. A shade is taken away at the edge and less and less further in; a real difference, such as another object,
// is left alone.
import type { GrayPixels, Pixels } from './codec.ts'
import { dilateByCone } from './cone-dilation.ts'
import { bilinear, fillUnknown, halved, type Plane } from './pyramid.ts'

/** How far from the edge the shades are compared, and how far in the correction ends, in cells. */
const bandCells = 2
const reachCells = 8
/** A difference as large as this, of 255, is no shade any more; smaller ones count by Tukey's biweight. */
const maxShade = 48

/**
 * The painted picture with the shade of the original along the edge of what was painted: those latents, of `cell` ×
 * `cell` pixels each, whose first pixel is white (128 and above) in the mask. All are of one size.
 */
export function matchEdgeTone(painted: Pixels, original: Pixels, mask: GrayPixels, cell: number): Pixels {
  const { width, height } = painted
  const latents = paintedLatents(mask, cell)
  const isPainted = new Float32Array(width * height)
  for (let y = 0, i = 0; y < height; y++)
    for (let x = 0; x < width; x++, i++)
      isPainted[i] = latents.values[Math.floor(y / cell) * latents.width + Math.floor(x / cell)]
  const near = (values: Float32Array, cells: number) => dilateByCone(values.slice(), width, cells * cell)
  const isKept = isPainted.map((value) => 1 - value)
  const nearKept = near(isKept, bandCells)
  const nearPainted = near(isPainted, bandCells)
  const inner = isPainted.map((value, i) => (value === 1 && nearKept[i] > 0 ? 1 : 0))
  const outer = isPainted.map((value, i) => (value === 0 && nearPainted[i] > 0 ? 1 : 0))
  if (!inner.includes(1)) return painted

  const halvings = Math.round(Math.log2(bandCells * cell))
  const shades = [0, 1, 2].map((channel) => [
    shadesOf(original, channel, outer, halvings),
    shadesOf(painted, channel, inner, halvings),
  ])
  const fading = near(isKept, reachCells)
  const scale = 2 ** halvings
  const data = painted.data.slice()
  const difference = new Float32Array(3)
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (fading[i] === 0) continue
      // A decoder passes from one latent to the next over about a cell.
      const share = fading[i] * bilinear(latents, (x + 0.5) / cell - 0.5, (y + 0.5) / cell - 0.5)
      if (share === 0) continue
      const [u, v] = [(x + 0.5) / scale - 0.5, (y + 0.5) / scale - 0.5]
      for (const [channel, [before, after]] of shades.entries())
        difference[channel] = bilinear(before, u, v) - bilinear(after, u, v)
      const largest = Math.max(...difference.map(Math.abs)) / maxShade
      const trust = largest >= 1 ? 0 : (1 - largest ** 2) ** 2
      for (let channel = 0; channel < 3; channel++) {
        const value = data[3 * i + channel] + share * trust * difference[channel]
        data[3 * i + channel] = Math.min(255, Math.max(0, Math.round(value)))
      }
    }
  }
  return { width, height, data }
}

/** 1 for each latent that the mask lets paint. */
function paintedLatents({ width, height, data }: GrayPixels, cell: number): Omit<Plane, 'weights'> {
  const size = { width: Math.ceil(width / cell), height: Math.ceil(height / cell) }
  const values = new Float32Array(size.width * size.height)
  for (let y = 0; y < size.height; y++)
    for (let x = 0; x < size.width; x++) values[y * size.width + x] = data[y * cell * width + x * cell] >= 128 ? 1 : 0
  return { ...size, values }
}

/** A channel's mean colours of the pixels with weight, coarse, and continued over all others. */
function shadesOf({ width, height, data }: Pixels, channel: number, weights: Float32Array, halvings: number): Plane {
  let plane: Plane = { width, height, values: weights.map((_, i) => data[3 * i + channel]), weights }
  for (let count = 0; count < halvings; count++) plane = halved(plane)
  fillUnknown(plane, 0)
  return plane
}
