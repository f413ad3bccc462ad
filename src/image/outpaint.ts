// Painting beyond a picture's edge: the canvas, and what stands on it before the first step. The new area goes on with the
// colours of the edge, softer with distance, and with noise of many sizes for the network to make something of; the mask
// reaches softly into the picture, so that the border is painted over and no line stays.
import { AppError } from '../errors.ts'
import type { GrayPixels, Pixels } from './codec.ts'
import { dilateByCone } from './cone-dilation.ts'
import { bilinear, fillUnknown } from './pyramid.ts'

/** How many pixels a picture grows on each side. */
export type Sides = { readonly left: number; readonly top: number; readonly right: number; readonly bottom: number }

/** A picture and where to paint on it. */
export type Canvas = { readonly image: Pixels; readonly mask: GrayPixels }

/** The picture on a larger grey canvas, and a mask that is white where the canvas is new. */
export function expandCanvas(image: Pixels, { left, top, right, bottom }: Sides): Canvas {
  const width = image.width + left + right
  const height = image.height + top + bottom
  const data = new Uint8Array(3 * width * height).fill(128)
  const mask = new Uint8Array(width * height).fill(255)
  for (let y = 0; y < image.height; y++) {
    const at = (y + top) * width + left
    data.set(image.data.subarray(3 * y * image.width, 3 * (y + 1) * image.width), 3 * at)
    mask.fill(0, at, at + image.width)
  }
  return { image: { width, height, data }, mask: { width, height, data: mask } }
}

/** Largest cells of the noise, in pixels; each finer octave has half of it. */
const noiseCells = [64, 32, 16, 8]

/** How far the mask reaches into the picture, in cells of the latents, and at most as a part of its shorter side. */
const overlapCells = 8
const maxOverlap = 1 / 8

/**
 * The canvas with something to start from: where the mask is white (128 and above), the known colours go on and noise from
 * `random` (uniform in [0, 1)) grows with the distance from the picture. The mask then falls off inside the picture, over
 * 8 `cell`s (pixels that one latent stands for), so that the first half of them is painted over. Pixels outside the mask
 * keep their bits. Throws `bad_image` for a mask that leaves nothing to paint.
 */
export function prepareOutpaint(image: Pixels, mask: GrayPixels, random: () => number, cell: number): Canvas {
  const { width, height } = image
  const isNew = Uint8Array.from(mask.data, (value) => (value >= 128 ? 1 : 0))
  if (!isNew.includes(1))
    throw new AppError('bad_image', 'mask: no pixel of it is white, so there is nothing to paint', {
      field: 'start.mask',
    })
  const overlap = Math.max(1, Math.min(overlapCells * cell, Math.floor(maxOverlap * Math.min(width, height))))
  const softMask = dilateByCone(Float32Array.from(isNew), width, overlap)
  const data = image.data.slice()
  // 1 in the picture, 0 far from it, and the other way round.
  const nearness = dilateByCone(
    Float32Array.from(isNew, (value) => 1 - value),
    width,
    noiseCells[0],
  )
  const bordering = dilateByCone(Float32Array.from(isNew), width, noiseCells[0])
  for (let channel = 0; channel < 3; channel++) {
    const continued = Float32Array.from(isNew, (_, i) => image.data[3 * i + channel])
    fillUnknown({ width, height, values: continued, weights: Float32Array.from(isNew, (value) => 1 - value) }, 128)
    const noise = octaveNoise(width, height, random)
    const spread = deviation(image, channel, (i) => isNew[i] === 0 && bordering[i] > 0)
    for (let i = 0; i < isNew.length; i++) {
      if (isNew[i] === 0) continue
      const value = continued[i] + spread * (1 - nearness[i]) * noise[i]
      data[3 * i + channel] = Math.min(255, Math.max(0, Math.round(value)))
    }
  }
  const softened = Uint8Array.from(softMask, (value) => Math.round(255 * value))
  return { image: { width, height, data }, mask: { width, height, data: softened } }
}

/** Standard deviation of a channel over the chosen pixels; that of a uniform one where there are none. */
function deviation({ data }: Pixels, channel: number, isChosen: (pixel: number) => boolean): number {
  let [count, sum, squares] = [0, 0, 0]
  for (let i = 0; i < data.length / 3; i++) {
    if (!isChosen(i)) continue
    const value = data[3 * i + channel]
    count += 1
    sum += value
    squares += value ** 2
  }
  return count === 0 ? 256 / Math.sqrt(12) : Math.sqrt(Math.max(0, squares / count - (sum / count) ** 2))
}

/** Value noise of about unit deviation: uniform values on grids of several cell sizes, interpolated and added up. */
function octaveNoise(width: number, height: number, random: () => number): Float32Array {
  const result = new Float32Array(width * height)
  for (const cell of noiseCells) {
    const grid = { width: Math.ceil(width / cell) + 1, height: Math.ceil(height / cell) + 1 }
    // A uniform value of ±1.7 has unit deviation, interpolation takes a third of it, and four octaves double it.
    const values = Float32Array.from({ length: grid.width * grid.height }, () => (random() - 0.5) * 2.6)
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++) result[y * width + x] += bilinear({ ...grid, values }, x / cell, y / cell)
  }
  return result
}
