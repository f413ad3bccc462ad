// Which size a result has when the command line leaves it to the picture that it starts from. Sides are multiples of 64,
// which every SDXL model takes, and pictures of more than two megapixels are made smaller: SDXL is at home at one.
import type { Sides } from '#image/outpaint.ts'

/** Width and height in pixels. */
export type Size = { readonly width: number; readonly height: number }

const multiple = 64
const maxPixels = 2 * 1024 * 1024

/** The picture's size, scaled down to two megapixels when it has more, each side to the nearest multiple of 64. */
export function resultSize({ width, height }: Size): Size {
  const scale = scaleToLimit({ width, height })
  return { width: nearestMultiple(width * scale), height: nearestMultiple(height * scale) }
}

/** The side that goes with the given one in the picture's shape, to the nearest multiple of 64. */
export function otherSide(given: number, givenOf: number, otherOf: number): number {
  return nearestMultiple((given * otherOf) / givenOf)
}

/**
 * The size of a picture and of the sides round it whose sum is a valid result. The picture keeps its shape, and its bits
 * unless an axis without new sides is no multiple of 64 or all is larger than two megapixels; what is missing to a
 * multiple goes to the new sides.
 */
export function canvasSize(picture: Size, sides: Sides): { readonly picture: Size; readonly sides: Sides } {
  const across = sides.left + sides.right
  const down = sides.top + sides.bottom
  let scale = scaleToLimit({ width: picture.width + across, height: picture.height + down })
  if (across === 0) scale = nearestMultiple(picture.width * scale) / picture.width
  else if (down === 0) scale = nearestMultiple(picture.height * scale) / picture.height
  const width = Math.max(1, Math.round(picture.width * scale))
  const height = Math.max(1, Math.round(picture.height * scale))
  const [left, right] = grown(width, sides.left * scale, sides.right * scale)
  const [top, bottom] = grown(height, sides.top * scale, sides.bottom * scale)
  return { picture: { width, height }, sides: { left, top, right, bottom } }
}

function scaleToLimit({ width, height }: Size): number {
  return Math.min(1, Math.sqrt(maxPixels / (width * height)))
}

function nearestMultiple(length: number): number {
  return Math.max(1, Math.round(length / multiple)) * multiple
}

/** Both sides of an axis in whole pixels, in their proportion, so that all of it is a multiple of 64. */
function grown(inner: number, before: number, after: number): readonly [before: number, after: number] {
  if (before + after === 0) return [0, 0]
  const least = (Math.floor(inner / multiple) + 1) * multiple
  const room = Math.max(nearestMultiple(inner + before + after), least) - inner
  const first = Math.round((room * before) / (before + after))
  return [first, room - first]
}
