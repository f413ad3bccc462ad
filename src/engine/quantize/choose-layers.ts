// For each layer, the way of rounding its input that changes its output least, out of what a calibration saw of it.
import { toF32 } from '#tensor/dtype.ts'
import { readTensorBytes } from '#tensor/safetensors.ts'
import { AppError } from '../../errors.ts'
import type { StoredTensor, Weights } from '../weights/checkpoint.ts'
import type { InputStatistics } from './input-statistics.ts'
import { readAffine, type Affine } from './norm-affine.ts'
import type { InputRange } from './quantization.ts'
import { roundWeights, rowProducts } from './round-weights.ts'
import { factorsOf, smoothingOf, type Smoothing } from './smoothing.ts'

/**
 * How a layer's range is found: all that was seen, as it is, without the scale and bias of the norm before it, or after its
 * outlier channels are scaled down.
 */
export const rangeMethods = ['min-max', 'norm', 'smoothing'] as const

export type RangeMethod = (typeof rangeMethods)[number]

/** What a calibration has decided for one layer. */
export type CalibratedLayer = {
  readonly path: string
  readonly method: RangeMethod
  /** Relative error of a row of the layer's output, root mean square over the sampled rows. */
  readonly error: number
  /** Null: the error is above {@link largestLayerError}, so the layer stays as it is. */
  readonly range: InputRange | null
  readonly smoothing: Smoothing | null
}

/** Relative error above which a layer is left in floating point. */
export const largestLayerError = 0.05

/** Rows of the input that a layer's error is measured on, spread over all that were seen. */
const measuredRows = 96
/** Outputs of a layer that its error is measured on, spread over all. */
const measuredOutputs = 48
/**
 * How much further a range reaches than what was seen: other prompts go further, and what is cut off is seen in the
 * picture, where coarser steps are not. Ranges of percentiles, which cut off on purpose, cost pocket's pictures 5 dB.
 */
const headroom = 1.25
/** How much of a channel's size moves into the weights (α of arXiv 2211.10438). */
const migrations = [0.5, 0.75] as const
/** Rows of a smaller share of the mean square count as if they had it. */
const smallestRow = 1e-3
/** A method that costs a multiplication has to be better by this factor. */
const worthwhile = 0.9
/**
 * And this much better than `norm` where that is good enough, since it is cheaper than any other: what a norm gives is then rounded where it is computed.
 * Pocket's pictures are the same with 0.9 and 0.
 */
const worthNorm = 0.5

type Candidate = {
  readonly method: RangeMethod
  readonly range: InputRange
  readonly smoothing: Smoothing | null
  /** The rows as the layer gets them, and what makes its usual input of them: null for none. */
  readonly samples: Float32Array
  readonly factors: Float32Array | null
  readonly shift: Float32Array | null
}

/** Some rows of a weight, (outputs, width). */
type WeightRows = {
  readonly path: string
  readonly data: Float32Array
  readonly outputs: number
  readonly kernelArea: number
}

/**
 * Decide for the layers that read one observed input; those that stand side by side share the decision, so that the
 * input is rounded once for them. `limit` is the largest rounded weight.
 */
export async function chooseLayers(
  statistics: InputStatistics,
  weights: Weights,
  limit: number,
): Promise<CalibratedLayer[]> {
  const layers: CalibratedLayer[] = []
  const { channels, kernelArea, norm } = statistics.input
  const width = channels * kernelArea
  const bare = { ...statistics, samples: spread(statistics, width) }
  const affine = norm === null ? null : await readAffine(weights, norm)
  const plain = affine ? withAffine(bare, affine) : bare
  for (const paths of Map.groupBy(statistics.input.paths, siblingsOf).values()) {
    const rows: WeightRows[] = []
    for (const path of paths) rows.push(await someRows(weights, path))
    const exact = rows.map((some) => products(plain.samples, width, some.data, some.outputs))
    const candidates = [...(affine ? [normCandidate(bare, affine)] : []), ...candidatesFor(plain, rows)]
    const rated = candidates.map((candidate) => {
      const rounded = roundedSamples(candidate)
      return { candidate, errors: rows.map((some, index) => errorOf(some, rounded, exact[index], candidate, limit)) }
    })
    let best = rated[0]
    for (const other of rated) {
      const isCheap = best.candidate.method === 'norm' && best.errors.every((error) => error <= largestLayerError)
      const factor = isCheap ? worthNorm : worthwhile
      if (squaredSum(other.errors) < factor ** 2 * squaredSum(best.errors)) best = other
    }
    for (const [index, path] of paths.entries()) {
      const error = best.errors[index]
      const { method, range, smoothing } = best.candidate
      const isKept = !(error <= largestLayerError)
      layers.push({
        path,
        method,
        error,
        range: isKept ? null : range,
        smoothing: isKept ? null : smoothing,
      })
    }
  }
  return layers
}

/** Query, key and value of one attention read the same input. */
function siblingsOf(path: string): string {
  return path.replace(/\.to_[qkv]$/, '.to_qkv')
}

/** What the norm gave, (C) each and rows of it, with its scale and bias. */
function withAffine(bare: InputStatistics, { scale, shift }: Affine): InputStatistics {
  const channels = scale.length
  const changed = (values: Float32Array): Float32Array =>
    values.map((value, i) => value * scale[i % channels] + shift[i % channels])
  const [low, high] = [changed(bare.minimum), changed(bare.maximum)]
  return {
    ...bare,
    samples: changed(bare.samples),
    minimum: low.map((value, channel) => Math.min(value, high[channel])),
    maximum: high.map((value, channel) => Math.max(value, low[channel])),
  }
}

/** The norm's scale in the weight and its bias in the layer's bias, so that only what it normalised is rounded. */
function normCandidate({ minimum, maximum, samples }: InputStatistics, { scale, shift }: Affine): Candidate {
  const range = rangeOf(lowest(minimum), highest(maximum))
  return { method: 'norm', range, smoothing: null, samples, factors: scale, shift }
}

function candidatesFor(
  { input, minimum, maximum, samples }: InputStatistics,
  rows: readonly WeightRows[],
): Candidate[] {
  const range = rangeOf(lowest(minimum), highest(maximum))
  const candidates: Candidate[] = [{ method: 'min-max', range, smoothing: null, samples, factors: null, shift: null }]
  for (const migration of migrations) {
    const smoothing = smoothingOf(smoothingFactors(input.channels, input.kernelArea, minimum, maximum, rows, migration))
    const factors = factorsOf(smoothing)
    const range = rangeOf(
      lowest(minimum.map((value, channel) => value / factors[channel])),
      highest(maximum.map((value, channel) => value / factors[channel])),
    )
    const divided = samples.map((value, i) => value / factors[Math.floor(i / input.kernelArea) % input.channels])
    candidates.push({ method: 'smoothing', range, smoothing, samples: divided, factors, shift: null })
  }
  return candidates
}

/** 256 steps over what was seen and its headroom, of which one is exactly 0. */
export function rangeOf(low: number, high: number): InputRange {
  const [from, to] = [Math.min(low * headroom, 0), Math.max(high * headroom, 0)]
  if (!Number.isFinite(to - from))
    throw new AppError('not_finite', `calibration: a layer's input reaches ${low} to ${high}`)
  const scale = Math.fround(to === from ? 1 : (to - from) / 255)
  return { scale, zeroPoint: Math.min(255, Math.max(0, Math.round(-from / scale))) }
}

/** max|x|^α / max|w|^(1 − α) for each input channel, about 1 on average; 1 where a channel is 0. */
function smoothingFactors(
  channels: number,
  kernelArea: number,
  minimum: Float32Array,
  maximum: Float32Array,
  rows: readonly WeightRows[],
  migration: number,
): Float32Array {
  const factors = new Float32Array(channels)
  let logarithms = 0
  for (let channel = 0; channel < channels; channel++) {
    const size = Math.max(Math.abs(minimum[channel]), Math.abs(maximum[channel]))
    let weight = 0
    for (const { data, outputs } of rows) {
      const width = data.length / outputs
      for (let output = 0; output < outputs; output++)
        for (let pixel = 0; pixel < kernelArea; pixel++)
          weight = Math.max(weight, Math.abs(data[output * width + channel * kernelArea + pixel]))
    }
    factors[channel] = size > 0 && weight > 0 ? size ** migration / weight ** (1 - migration) : 1
    logarithms += Math.log(factors[channel])
  }
  const mean = Math.exp(logarithms / channels)
  return factors.map((factor) => Math.min(1e4, Math.max(1e-4, factor / mean)))
}

/** Some of the rows that were seen, one after the other. */
function spread({ count, samples }: InputStatistics, width: number): Float32Array {
  const rows = Math.min(count, measuredRows)
  const result = new Float32Array(rows * width)
  for (let row = 0; row < rows; row++) {
    const start = Math.floor((row * count) / rows) * width
    result.set(samples.subarray(start, start + width), row * width)
  }
  return result
}

/** The rows as a rounded layer sees them. */
function roundedSamples({ samples, range: { scale, zeroPoint } }: Candidate): Float32Array {
  return samples.map((value) => {
    const step = Math.round(value / scale) + zeroPoint
    return scale * (Math.min(255, Math.max(0, step)) - zeroPoint)
  })
}

/** Every row of `a` times every row of `b`, (rows, outputs). */
function products(a: Float32Array, width: number, b: Float32Array | Int8Array, outputs: number): Float32Array {
  const rows = a.length / width
  const result = new Float32Array(rows * outputs)
  for (let output = 0; output < outputs; output++) {
    // A copy, so that the inner loop is the same for both kinds of numbers.
    const column = Float32Array.from(b.subarray(output * width, (output + 1) * width))
    for (let row = 0; row < rows; row++) {
      const start = row * width
      let sum = 0
      for (let i = 0; i < width; i++) sum += a[start + i] * column[i]
      result[row * outputs + output] = sum
    }
  }
  return result
}

/**
 * The relative error of a row of a layer's output, root mean square over the rows. Each counts beside its own size: one range
 * for all rounds a row of small values as coarsely as the largest, and a background is made of small ones.
 */
function errorOf(
  { path, data, outputs, kernelArea }: WeightRows,
  rounded: Float32Array,
  exact: Float32Array,
  { factors, shift }: Candidate,
  limit: number,
): number {
  const { values, scales } = roundWeights(`${path}.weight`, data, { outputs, kernelArea, limit }, factors)
  const int8 = products(rounded, data.length / outputs, values, outputs)
  const shifts = shift && rowProducts(data, shift)
  const rows = exact.length / outputs
  const [differences, norms] = [new Float64Array(rows), new Float64Array(rows)]
  for (let i = 0; i < exact.length; i++) {
    const row = Math.floor(i / outputs)
    const output = i % outputs
    differences[row] += (exact[i] - int8[i] * scales[output] - (shifts ? shifts[output] : 0)) ** 2
    norms[row] += exact[i] ** 2
  }
  const mean = norms.reduce((sum, norm) => sum + norm, 0) / rows
  if (mean === 0) return 0
  const relative = differences.map((difference, row) => difference / Math.max(norms[row], smallestRow * mean))
  return Math.sqrt(relative.reduce((sum, error) => sum + error, 0) / rows)
}

async function someRows(weights: Weights, path: string): Promise<WeightRows> {
  const stored = weights.get(`${path}.weight`)
  if (!stored) throw new AppError('internal', `calibration: there is no weight of ${path}`)
  const outputs = Math.min(measuredOutputs, stored.shape[0])
  const width = stored.shape.slice(1).reduce((product, size) => product * size, 1)
  const data = new Float32Array(outputs * width)
  for (let index = 0; index < outputs; index++) {
    const output = Math.floor((index * stored.shape[0]) / outputs)
    data.set(await readRow(stored, output, width), index * width)
  }
  return { path, data, outputs, kernelArea: stored.shape.slice(2).reduce((product, size) => product * size, 1) }
}

async function readRow({ dtype, source }: StoredTensor, row: number, width: number): Promise<Float32Array> {
  const length = width * (dtype === 'F32' ? 4 : 2)
  const start = row * length
  if ('bytes' in source) return toF32(dtype, source.bytes.slice(start, start + length))
  return toF32(dtype, await readTensorBytes({ source: { file: source.file, offset: source.offset + start, length } }))
}

function lowest(values: Float32Array): number {
  return values.reduce((low, value) => Math.min(low, value), Infinity)
}

function highest(values: Float32Array): number {
  return values.reduce((high, value) => Math.max(high, value), -Infinity)
}

function squaredSum(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value * value, 0)
}
