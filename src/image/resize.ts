// Resampling to the bit as Pillow does it for 8-bit pictures: a separable filter, rows first and columns second, each
// pass rounding to 8 bits, with weights in fixed point.
import type { GrayPixels, Pixels } from './codec.ts'

/** Rows of interleaved samples, whatever the number of channels. */
export type Samples = { readonly width: number; readonly height: number; readonly data: Uint8Array }

/** A rectangle of pixels: left and top included, right and bottom not. */
export type Region = { readonly left: number; readonly top: number; readonly right: number; readonly bottom: number }

/** The picture at another size, with Lanczos' filter, which the reference uses for pictures and masks alike. */
export function resizeLanczos(pixels: Pixels, width: number, height: number): Pixels {
  return { width, height, data: resample(pixels, 3, width, height, lanczos) }
}

/** The same for a mask. */
export function resizeMask(mask: GrayPixels, width: number, height: number): GrayPixels {
  return { width, height, data: resample(mask, 1, width, height, lanczos) }
}

/** A filter over (-support, support), in source pixels where nothing shrinks. */
export type Filter = { readonly support: number; readonly weight: (x: number) => number }

/** Lanczos' window of three lobes: sinc(x) · sinc(x/3). */
export const lanczos: Filter = {
  support: 3,
  weight: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0),
}

/** Keys' cubic convolution with a = -1/2 (IEEE Trans. ASSP-29, 1981, eq. 4). */
export const bicubic: Filter = {
  support: 2,
  weight(x) {
    const t = Math.abs(x)
    if (t < 1) return (1.5 * t - 2.5) * t * t + 1
    return t < 2 ? ((-0.5 * t + 2.5) * t - 4) * t + 2 : 0
  },
}

/** Bits behind the point of a weight: what an int32 leaves beside 8 bits of a sample and two for sums above one. */
const weightBits = 22

/** The samples of `box` (default: all) of interleaved `channels`, at `width` × `height`; a copy where nothing changes. */
export function resample(
  source: Samples,
  channels: number,
  width: number,
  height: number,
  filter: Filter,
  box: Region = { left: 0, top: 0, right: source.width, bottom: source.height },
): Uint8Array {
  let raster = source
  const changesWidth = width !== source.width || box.left !== 0 || box.right !== width
  const changesHeight = height !== source.height || box.top !== 0 || box.bottom !== height
  const rows = (): void => {
    if (changesWidth)
      raster = filterRows(raster, channels, axisWeights(source.width, box.left, box.right, width, filter))
  }
  const columns = (): void => {
    if (changesHeight)
      raster = filterColumns(raster, channels, axisWeights(source.height, box.top, box.bottom, height, filter))
  }
  // Each pass rounds, so that their order shows. Pillow 13 takes the columns first where that leaves far fewer rows.
  const columnsFirst = height < source.height && source.height - height > 2 * (source.width - width)
  for (const pass of columnsFirst ? [columns, rows] : [rows, columns]) pass()
  return raster === source ? source.data.slice() : raster.data
}

/** For each sample of the result: the first source sample, how many, and their weights in fixed point, `stride` apart. */
type AxisWeights = { starts: Int32Array; counts: Int32Array; weights: Int32Array; stride: number }

function axisWeights(sourceSize: number, from: number, to: number, size: number, filter: Filter): AxisWeights {
  const scale = (to - from) / size
  // Shrinking widens the filter so that it covers all source samples.
  const widening = Math.max(scale, 1)
  const support = filter.support * widening
  const stride = Math.ceil(support) * 2 + 1
  const starts = new Int32Array(size)
  const counts = new Int32Array(size)
  const weights = new Int32Array(size * stride)
  const exact = new Float64Array(stride)
  for (let i = 0; i < size; i++) {
    const center = from + (i + 0.5) * scale
    const start = Math.max(0, Math.trunc(center - support + 0.5))
    const count = Math.min(sourceSize, Math.trunc(center + support + 0.5)) - start
    let sum = 0
    for (let k = 0; k < count; k++) {
      exact[k] = filter.weight((k + start - center + 0.5) * (1 / widening))
      sum += exact[k]
    }
    for (let k = 0; k < count; k++) {
      const weight = (sum === 0 ? exact[k] : exact[k] / sum) * 2 ** weightBits
      weights[i * stride + k] = Math.trunc(weight + (weight < 0 ? -0.5 : 0.5))
    }
    starts[i] = start
    counts[i] = count
  }
  return { starts, counts, weights, stride }
}

function filterRows(source: Samples, channels: number, axis: AxisWeights): Samples {
  const { starts, counts, weights, stride } = axis
  const { data, height } = source
  const width = starts.length
  const result = new Uint8Array(height * width * channels)
  let to = 0
  for (let y = 0; y < height; y++) {
    const row = y * source.width * channels
    for (let x = 0; x < width; x++) {
      const first = row + starts[x] * channels
      for (let channel = 0; channel < channels; channel++) {
        let sum = 1 << (weightBits - 1)
        let at = first + channel
        for (let k = x * stride, end = k + counts[x]; k < end; k++, at += channels) sum += data[at] * weights[k]
        result[to++] = clipped(sum)
      }
    }
  }
  return { width, height, data: result }
}

function filterColumns({ data, width }: Samples, channels: number, axis: AxisWeights): Samples {
  const { starts, counts, weights, stride } = axis
  const rowLength = width * channels
  const result = new Uint8Array(starts.length * rowLength)
  const sums = new Int32Array(rowLength)
  for (let y = 0; y < starts.length; y++) {
    sums.fill(1 << (weightBits - 1))
    for (let k = 0; k < counts[y]; k++) {
      const weight = weights[y * stride + k]
      const row = (starts[y] + k) * rowLength
      for (let x = 0; x < rowLength; x++) sums[x] += data[row + x] * weight
    }
    for (let x = 0; x < rowLength; x++) result[y * rowLength + x] = clipped(sums[x])
  }
  return { width, height: starts.length, data: result }
}

function clipped(sum: number): number {
  const value = sum >> weightBits
  return value < 0 ? 0 : Math.min(value, 255)
}

function sinc(x: number): number {
  if (x === 0) return 1
  const angle = x * Math.PI
  return Math.sin(angle) / angle
}
