// The end of inpainting: only what the mask asked for is taken from the painted picture, the rest is the original's own
// bits, and between the two runs a soft seam.
import type { GrayPixels, Pixels } from './codec.ts'
import { dilateByCone } from './cone-dilation.ts'
import { resizeLanczos, type Region } from './resize.ts'

/** How far outside the mask the seam reaches, in pixels: a cell of SDXL's latents, as far as painting bleeds. */
export const seamPixels = 8

export type PasteInput = {
  readonly original: Pixels
  /** Of the original's size, or with a region any size: it is scaled into the region. */
  readonly painted: Pixels
  /** Of the original's size; white takes the painted picture, grey as much of it. */
  readonly mask: GrayPixels
  readonly region?: Region
}

/**
 * The painted picture where the mask is white, the original to the bit further than {@link seamPixels} from every pixel
 * of the mask that is not black, and in between a smooth passage. With a region nothing outside of it changes.
 */
export function pasteInpainted({ original, painted, mask, region }: PasteInput): Pixels {
  const { width, height } = original
  const place = region ?? { left: 0, top: 0, right: width, bottom: height }
  const source = region ? scaleInto(painted, region) : painted
  const reach = dilateByCone(
    Float32Array.from(mask.data, (value) => value / 255),
    width,
    seamPixels,
  )
  const data = original.data.slice()
  for (let y = place.top; y < place.bottom; y++) {
    for (let x = place.left; x < place.right; x++) {
      const share = smooth(Math.min(reach[y * width + x], innerDistance(x, y, place, original) / seamPixels))
      if (share === 0) continue
      const to = 3 * (y * width + x)
      const from = 3 * ((y - place.top) * source.width + x - place.left)
      for (let channel = 0; channel < 3; channel++) {
        const before = data[to + channel]
        data[to + channel] = Math.round(before + share * (source.data[from + channel] - before))
      }
    }
  }
  return { width, height, data }
}

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
