// The end of inpainting: only what the mask asked for is taken from the painted picture, the rest is the original's own
// bits, and between the two runs a soft seam.
import type { GrayPixels, Pixels } from './codec.ts'
import { dilateByCone } from './cone-dilation.ts'
import { resizeLanczos, type Region } from './resize.ts'

export type PasteInput = {
  readonly original: Pixels
  /** Of the original's size, or with a region any size: it is scaled into the region. */
  readonly painted: Pixels
  /** Of the original's size; white takes the painted picture, grey as much of it. */
  readonly mask: GrayPixels
  readonly region?: Region
  /** Pixels of the painted picture that one latent stands for, 8 for SDXL: painting knows the mask no finer. */
  readonly cell: number
}

/** How far the seam reaches into the white of the mask and out of it, in cells. */
export const seamCells = { inside: 0.5, outside: 1 } as const

/**
 * The painted picture where the mask is white, the original to the bit further than {@link seamCells}.outside from every
 * pixel of the mask that is not black, and a smooth passage from the one to the other along the mask's edge. With a
 * region nothing outside of it changes.
 */
export function pasteInpainted({ original, painted, mask, region, cell }: PasteInput): Pixels {
  const { width, height } = original
  const place = region ?? { left: 0, top: 0, right: width, bottom: height }
  const source = region ? scaleInto(painted, region) : painted
  const placedCell = region ? Math.max(minPlacedCell, (cell * (region.right - region.left)) / painted.width) : cell
  const inside = Math.max(1, seamCells.inside * placedCell)
  const outside = Math.max(1, seamCells.outside * placedCell)
  const white = Float32Array.from(mask.data, (value) => value / 255)
  const black = dilateByCone(
    white.map((value) => 1 - value),
    width,
    inside,
  )
  const reach = dilateByCone(white, width, outside)
  const data = original.data.slice()
  for (let y = place.top; y < place.bottom; y++) {
    for (let x = place.left; x < place.right; x++) {
      const at = y * width + x
      const depth = (reach[at] * outside + (1 - black[at]) * inside) / (outside + inside)
      const share = smooth(Math.min(depth, innerDistance(x, y, place, original) / outside))
      if (share === 0) continue
      const to = 3 * at
      const from = 3 * ((y - place.top) * source.width + x - place.left)
      for (let channel = 0; channel < 3; channel++) {
        const before = data[to + channel]
        data[to + channel] = Math.round(before + share * (source.data[from + channel] - before))
      }
    }
  }
  return { width, height, data }
}

/** A region that is enlarged for painting has cells of less than a pixel or two; its seam shall still be soft. */
const minPlacedCell = 4

/** Distance to the region's border, in pixels, where the picture goes on behind it. */
function innerDistance(x: number, y: number, region: Region, { width, height }: Pixels): number {
  return Math.min(
    region.left === 0 ? Infinity : x - region.left + 1,
    region.top === 0 ? Infinity : y - region.top + 1,
    region.right === width ? Infinity : region.right - x,
    region.bottom === height ? Infinity : region.bottom - y,
  )
}

/** Hermite's step, so that the seam has no visible beginning or end. */
function smooth(t: number): number {
  if (t <= 0) return 0
  return t >= 1 ? 1 : t * t * (3 - 2 * t)
}

/**
 * The painted picture at the region's size: scaled to cover it, in the middle, the rest cut off, which undoes the bands
 * that cropAndResize adds (diffusers' resize_mode "crop").
 */
function scaleInto(painted: Pixels, { left, top, right, bottom }: Region): Pixels {
  const [width, height] = [right - left, bottom - top]
  const isWider = width / height > painted.width / painted.height
  const scaled = isWider
    ? resizeLanczos(painted, width, Math.floor((painted.height * width) / painted.width))
    : resizeLanczos(painted, Math.floor((painted.width * height) / painted.height), height)
  const skipX = Math.floor(scaled.width / 2) - Math.floor(width / 2)
  const skipY = Math.floor(scaled.height / 2) - Math.floor(height / 2)
  const data = new Uint8Array(3 * width * height)
  for (let y = 0; y < height; y++) {
    const from = 3 * ((y + skipY) * scaled.width + skipX)
    data.set(scaled.data.subarray(from, from + 3 * width), 3 * y * width)
  }
  return { width, height, data }
}
