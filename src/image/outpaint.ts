// Painting beyond a picture's edge: the canvas, and what stands on it before the first step. The new area goes on with the
// colours of the edge, softer with distance, and with noise of many sizes for the network to make something of; the mask
// reaches softly into the picture, so that the border is painted over and no line stays.
import { AppError } from '../errors.ts'
import type { GrayPixels, Pixels } from './codec.ts'
import { dilateByCone } from './cone-dilation.ts'

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
    const continued = continueColours(image, isNew, channel)
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

type Plane = { width: number; height: number; values: Float32Array; weights: Float32Array }

/**
 * A channel whose unknown pixels are filled from the known ones: averages go down a pyramid of halves, and each level
 * fills its holes from the one below it (Gortler et al., "The Lumigraph", 1996, §3.4.3, pull and push).
 */
function continueColours({ width, height, data }: Pixels, isNew: Uint8Array, channel: number): Float32Array {
  const values = Float32Array.from(isNew, (_, i) => data[3 * i + channel])
  const weights = Float32Array.from(isNew, (value) => 1 - value)
  const full: Plane = { width, height, values, weights }
  if (!weights.includes(1)) return values.fill(128)
  const levels = [full]
  for (let level = full; level.weights.some((weight) => weight === 0) && level.values.length > 1;) {
    level = halved(level)
    levels.push(level)
  }
  for (let index = levels.length - 2; index >= 0; index--) fillFrom(levels[index], levels[index + 1])
  return full.values
}

/** Means of the known pixels of every 2 × 2. */
function halved({ width, height, values, weights }: Plane): Plane {
  const half: Plane = {
    width: Math.ceil(width / 2),
    height: Math.ceil(height / 2),
    values: new Float32Array(Math.ceil(width / 2) * Math.ceil(height / 2)),
    weights: new Float32Array(Math.ceil(width / 2) * Math.ceil(height / 2)),
  }
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const to = (y >> 1) * half.width + (x >> 1)
      half.values[to] += weights[y * width + x] * values[y * width + x]
      half.weights[to] += weights[y * width + x]
    }
  }
  for (let i = 0; i < half.values.length; i++) {
    if (half.weights[i] === 0) continue
    half.values[i] /= half.weights[i]
    half.weights[i] = 1
  }
  return half
}

/** Bilinear samples of the coarser level for the pixels that nothing is known of. */
function fillFrom(fine: Plane, coarse: Plane): void {
  for (let y = 0; y < fine.height; y++) {
    for (let x = 0; x < fine.width; x++) {
      const at = y * fine.width + x
      if (fine.weights[at] === 0) fine.values[at] = bilinear(coarse, (x - 0.5) / 2, (y - 0.5) / 2)
    }
  }
}

function bilinear({ width, height, values }: Pick<Plane, 'width' | 'height' | 'values'>, x: number, y: number): number {
  const [left, top] = [Math.max(0, Math.floor(x)), Math.max(0, Math.floor(y))]
  const [right, bottom] = [Math.min(width - 1, left + 1), Math.min(height - 1, top + 1)]
  const [u, v] = [Math.max(0, x - left), Math.max(0, y - top)]
  const upper = values[top * width + left] * (1 - u) + values[top * width + right] * u
  const lower = values[bottom * width + left] * (1 - u) + values[bottom * width + right] * u
  return upper * (1 - v) + lower * v
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
