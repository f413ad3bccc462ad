import { tensor, zeros, type Tensor } from '#tensor/tensor.ts'
import { AppError } from '../../errors.ts'

/** Mean and variance of a group of channels over a whole map. */
export type Moments = { readonly mean: number; readonly variance: number }

/** A strip as a convolution of three rows takes it. */
export type PaddedStrip = {
  readonly index: number
  readonly rows: number
  /** (1, C, rows + 2, W): a row of each neighbour, or of zeros, above and below. */
  readonly padded: Tensor
  /** (1, 1, rows + 2, 1): 0 for rows outside the map, 1 for the others. */
  readonly inside: Tensor
}

/** A feature map (1, C, H, W) in strips of rows, from the top to the bottom, which are let go of one by one. */
export class StripMap {
  readonly channels: number
  readonly width: number
  /** (1, C, rows, W) each; null once it has been taken. */
  readonly #strips: (Tensor | null)[] = []

  constructor(channels: number, width: number) {
    this.channels = channels
    this.width = width
  }

  /** Cut a map into strips of so many rows each. */
  static cut(map: Tensor, heights: readonly number[]): StripMap {
    const [, channels, height, width] = map.shape as [number, number, number, number]
    const result = new StripMap(channels, width)
    let top = 0
    for (const rows of heights) {
      const strip = zeros([1, channels, rows, width])
      copyRows(map, top, strip, 0, rows)
      result.push(strip)
      top += rows
    }
    if (top !== height) throw new AppError('internal', `strips of ${top} rows for a map of ${height}`)
    return result
  }

  /** Add a strip below. */
  push(strip: Tensor): void {
    const [batch, channels, , width] = strip.shape
    if (batch !== 1 || channels !== this.channels || width !== this.width)
      throw new AppError('internal', `a strip of [${strip.shape.join()}] for ${this.channels} channels`)
    this.#strips.push(strip)
  }

  /** A strip, which the map has no more afterwards. */
  take(index: number): Tensor {
    const strip = this.#at(index)
    this.#strips[index] = null
    return strip
  }

  /**
   * Each strip with its neighbours' rows, valid until the next one is asked for; with `consume` the map has let go of it
   * by then.
   */
  *strips({ consume }: { consume: boolean }): Generator<PaddedStrip, void> {
    const lastRow = zeros([1, this.channels, 1, this.width])
    const count = this.#strips.length
    // One buffer a height: a strip is large, and a fresh one each time would wait for the collector.
    const buffers = new Map<number, Tensor>()
    for (let index = 0; index < count; index++) {
      const strip = this.#at(index)
      const rows = strip.shape[2]
      const padded = buffers.get(rows) ?? zeros([1, this.channels, rows + 2, this.width])
      buffers.set(rows, padded)
      const inside = tensor([1, 1, rows + 2, 1], new Float32Array(rows + 2).fill(1))
      if (index > 0) copyRows(lastRow, 0, padded, 0, 1)
      else outside(padded, inside, 0)
      copyRows(strip, 0, padded, 1, rows)
      if (index + 1 < count) copyRows(this.#at(index + 1), 0, padded, rows + 1, 1)
      else outside(padded, inside, rows + 1)
      copyRows(strip, rows - 1, lastRow, 0, 1)
      if (consume) this.#strips[index] = null
      yield { index, rows, padded, inside }
    }
  }

  /** Mean and variance of each group of channels, summed in double precision. */
  moments(groups: number): Moments[] {
    const sums = new Float64Array(groups)
    const squares = new Float64Array(groups)
    let count = 0
    for (let index = 0; index < this.#strips.length; index++) {
      const { data } = this.#at(index)
      const size = data.length / groups
      count += size
      for (let group = 0; group < groups; group++) {
        let [sum, square] = [0, 0]
        for (let at = group * size, end = at + size; at < end; at++) {
          const value = data[at]
          sum += value
          square += value * value
        }
        sums[group] += sum
        squares[group] += square
      }
    }
    return Array.from(sums, (sum, group) => {
      const mean = sum / count
      return { mean, variance: Math.max(0, squares[group] / count - mean * mean) }
    })
  }

  /** The whole map; its strips are let go of. */
  join(): Tensor {
    const height = this.#strips.reduce((sum, strip) => sum + (strip?.shape[2] ?? 0), 0)
    const map = zeros([1, this.channels, height, this.width])
    let top = 0
    for (let index = 0; index < this.#strips.length; index++) {
      const strip = this.take(index)
      copyRows(strip, 0, map, top, strip.shape[2])
      top += strip.shape[2]
    }
    return map
  }

  #at(index: number): Tensor {
    const strip = this.#strips[index]
    if (!strip) throw new AppError('internal', `strip ${index} of ${this.#strips.length} is not there`)
    return strip
  }
}

/** Make a row one that lies outside the map. */
function outside(padded: Tensor, inside: Tensor, row: number): void {
  const [, channels, height, width] = padded.shape as [number, number, number, number]
  inside.data[row] = 0
  for (let channel = 0; channel < channels; channel++)
    padded.data.fill(0, (channel * height + row) * width, (channel * height + row + 1) * width)
}

/** Copy `count` rows of every channel from one map into another of the same channels and width. */
function copyRows(from: Tensor, fromRow: number, to: Tensor, toRow: number, count: number): void {
  const [, channels, fromHeight, width] = from.shape as [number, number, number, number]
  const toHeight = to.shape[2]
  for (let channel = 0; channel < channels; channel++) {
    const start = (channel * fromHeight + fromRow) * width
    to.data.set(from.data.subarray(start, start + count * width), (channel * toHeight + toRow) * width)
  }
}
