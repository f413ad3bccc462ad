// The new part of an outpainted picture often comes out a little lighter or in another tint than the picture it goes on
// from. Where both are known, in the overlap, the difference is measured, and taken away from there outwards.
import type { GrayPixels, Pixels } from './codec.ts'
import { dilateByCone } from './cone-dilation.ts'
import { bilinear, fillUnknown, halved, type Plane } from './pyramid.ts'

/** How many times the difference is halved in size before it is spread: it is a tint over 64 pixels, no detail. */
const halvings = 6
/** How far from the picture the correction ends, in pixels. */
const reach = 512
/** The most that is taken for a tint, of 255. */
const maxTint = 48

/**
 * The painted picture with the tint of the original: `mask` is that of prepareOutpaint, in whose grey upper half known
 * pixels were painted over. The correction is whole at the picture and ends 512 pixels from it.
 */
export function matchTone(painted: Pixels, original: Pixels, mask: GrayPixels): Pixels {
  const { width, height } = painted
  const overlap = Float32Array.from(mask.data, (value) => (value >= 128 && value < 255 ? 1 : 0))
  const nearness = dilateByCone(
    Float32Array.from(mask.data, (value) => (value < 255 ? 1 : 0)),
    width,
    reach,
  )
  const data = painted.data.slice()
  for (let channel = 0; channel < 3; channel++) {
    const values = Float32Array.from(overlap, (_, i) => original.data[3 * i + channel] - painted.data[3 * i + channel])
    let tint: Plane = { width, height, values, weights: overlap }
    for (let count = 0; count < halvings; count++) tint = halved(tint)
    fillUnknown(tint, 0)
    const scale = 2 ** halvings
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        const measured = bilinear(tint, (x + 0.5) / scale - 0.5, (y + 0.5) / scale - 0.5)
        const value = data[3 * i + channel] + nearness[i] * Math.max(-maxTint, Math.min(maxTint, measured))
        data[3 * i + channel] = Math.min(255, Math.max(0, Math.round(value)))
      }
    }
  }
  return { width, height, data }
}
