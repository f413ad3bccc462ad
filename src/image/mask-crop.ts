// The part of a picture that is painted at full resolution: the mask's bounding box with some context, in the shape of
// the picture to be made, and the way of that part to the network's size. The arithmetic is that of diffusers'
// VaeImageProcessor (get_crop_region, and resize with resize_mode "fill").
import { AppError } from '../errors.ts'
import type { GrayPixels, Pixels } from './codec.ts'
import { bicubic, lanczos, resample, type Filter, type Region, type Samples } from './resize.ts'

/**
 * The mask's bounding box, `padding` pixels wider on each side, then widened to the shape `width` : `height` as far as
 * the picture goes. Throws `bad_image` for a mask that is black all over.
 */
export function cropRegion(mask: GrayPixels, width: number, height: number, padding: number): Region {
  const box = boundingBox(mask)
  if (box === null)
    throw new AppError('bad_image', 'mask: it is black all over, so there is nothing to paint', { field: 'start.mask' })
  const padded = {
    left: Math.max(box.left - padding, 0),
    top: Math.max(box.top - padding, 0),
    right: Math.min(box.right + padding, mask.width),
    bottom: Math.min(box.bottom + padding, mask.height),
  }
  const boxWidth = padded.right - padded.left
  const boxHeight = padded.bottom - padded.top
  const shape = width / height
  if (boxWidth / boxHeight > shape) {
    const [top, bottom] = widened(padded.top, padded.bottom, Math.trunc(boxWidth / shape - boxHeight), mask.height)
    return { ...padded, top, bottom }
  }
  const [left, right] = widened(padded.left, padded.right, Math.trunc(boxHeight * shape - boxWidth), mask.width)
  return { ...padded, left, right }
}

/** `extra` more pixels round (start, end), moved into 0..size and cut there. */
function widened(start: number, end: number, extra: number, size: number): [start: number, end: number] {
  let from = start - Math.floor(extra / 2)
  let to = end + extra - Math.floor(extra / 2)
  if (to >= size) {
    from -= to - size
    to = size
  }
  if (from < 0) {
    to -= from
    from = 0
  }
  return [from, Math.min(to, size)]
}

/** Of all samples that are not 0. */
function boundingBox({ width, height, data }: GrayPixels): Region | null {
  let left = width
  let right = 0
  let top = height
  let bottom = 0
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (data[y * width + x] === 0) continue
      left = Math.min(left, x)
      right = Math.max(right, x + 1)
      top = Math.min(top, y)
      bottom = y + 1
    }
  }
  return right === 0 ? null : { left, top, right, bottom }
}

/** The region of a picture at `width` × `height`, its own shape kept; bands beside it continue its outermost rows. */
export function cropAndResize(pixels: Pixels, region: Region, width: number, height: number): Pixels {
  return { width, height, data: fill(crop(pixels, 3, region), 3, width, height) }
}

/** The same for the mask. */
export function cropAndResizeMask(mask: GrayPixels, region: Region, width: number, height: number): GrayPixels {
  return { width, height, data: fill(crop(mask, 1, region), 1, width, height) }
}

/** The samples inside the region. */
function crop({ width, data }: Samples, channels: number, { left, top, right, bottom }: Region): Samples {
  const [cropWidth, cropHeight] = [right - left, bottom - top]
  const result = new Uint8Array(cropWidth * cropHeight * channels)
  for (let y = 0; y < cropHeight; y++) {
    const from = ((top + y) * width + left) * channels
    result.set(data.subarray(from, from + cropWidth * channels), y * cropWidth * channels)
  }
  return { width: cropWidth, height: cropHeight, data: result }
}

function fill(source: Samples, channels: number, width: number, height: number): Uint8Array {
  const isWider = width / height < source.width / source.height
  const inner: Samples = isWider
    ? sized(source, channels, width, Math.floor((source.height * width) / source.width), lanczos)
    : sized(source, channels, Math.floor((source.width * height) / source.height), height, lanczos)
  const left = Math.floor(width / 2) - Math.floor(inner.width / 2)
  const top = Math.floor(height / 2) - Math.floor(inner.height / 2)
  const result: Samples = { width, height, data: new Uint8Array(width * height * channels) }
  place(result, inner, channels, left, top)
  // A box without extent at an edge: the bicubic filter goes on with the slope of the last two rows or columns.
  if (isWider && top > 0) {
    const band = (y: number): Samples =>
      sized(inner, channels, width, top, bicubic, { left: 0, top: y, right: width, bottom: y })
    place(result, band(0), channels, 0, 0)
    place(result, band(inner.height), channels, 0, top + inner.height)
  } else if (!isWider && left > 0) {
    const band = (x: number): Samples =>
      sized(inner, channels, left, height, bicubic, { left: x, top: 0, right: x, bottom: height })
    place(result, band(0), channels, 0, 0)
    place(result, band(inner.width), channels, left + inner.width, 0)
  }
  return result.data
}

function sized(
  source: Samples,
  channels: number,
  width: number,
  height: number,
  filter: Filter,
  box?: Region,
): Samples {
  return { width, height, data: resample(source, channels, width, height, filter, box) }
}

/** Copy `part` into `whole`; what would lie outside is left out. */
function place(whole: Samples, part: Samples, channels: number, left: number, top: number): void {
  const columns = Math.min(part.width, whole.width - left)
  const rows = Math.min(part.height, whole.height - top)
  for (let y = 0; y < rows; y++) {
    const from = y * part.width * channels
    whole.data.set(part.data.subarray(from, from + columns * channels), ((top + y) * whole.width + left) * channels)
  }
}
