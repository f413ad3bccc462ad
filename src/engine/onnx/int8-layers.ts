// Linears and convolutions in 8-bit integers, in the forms that have fast kernels: for onnxruntime one product of unsigned
// rows by signed columns (convolutions gather their 3×3 windows first), for OpenVINO the layer between QuantizeLinear
// and DequantizeLinear, which its CPU plugin fuses into one kernel. There the middle of an input's range is taken off in
// the bias: kernels that take it off by themselves prepare weights up to nine times longer.
import { elementCount } from '#tensor/tensor.ts'
import { AppError } from '../../errors.ts'
import { outputParts, type InputRange, type QuantizedLayer } from '../quantize/quantization.ts'
import { inverseFactorsOf } from '../quantize/smoothing.ts'
import type { GraphBuilder, Value } from './graph-builder.ts'

/** The middle of an unsigned byte, which stands for 0 where ranges are symmetric. */
const middle = 128

/** A row that is all zeros still needs a scale to divide by. */
const smallestScale = 1e-30

/** Which of a linear's outputs are computed: all, or one of `of` equal shares. */
export type OutputShare = { readonly index: number; readonly of: number }

/** A convolution's window. */
export type Window = {
  readonly kernel: number
  readonly stride: number
  readonly padding: number
  readonly padEnd: number
  /** Rows and columns that come out. */
  readonly size: readonly [number, number]
}

/** y = x·Wᵀ + b over rows, with W rounded. (…, in) → (…, outFeatures / share.of) */
export function int8Linear(
  g: GraphBuilder,
  x: Value,
  layer: QuantizedLayer,
  path: string,
  outFeatures: number,
  { bias = true, share = { index: 0, of: 1 } }: { bias?: boolean; share?: OutputShare } = {},
): Value {
  const inFeatures = x.shape.at(-1)!
  const count = outFeatures / share.of
  const from = share.index * count
  const input = layer.norm === null ? smoothed(g, x, layer, path, [inFeatures]) : withoutAffine(g, x, path)
  const rowsOf = (key: string): Value => g.weightRows(`${path}.${key}`, [outFeatures], from, count)
  const scales = rowsOf('weight_scale')
  const own = bias ? rowsOf('bias') : null
  const added = layer.norm === null ? own : plus(g, own, rowsOf('weight_shift'))
  if (weightLayout(g) === 'rows') {
    const weight = g.int8Weight(`${path}.weight`, [outFeatures, inFeatures], [count, inFeatures], from)
    const range = rangeOfRows(layer, path)
    const sums = rowsOf('weight_sum')
    const shift = shifted(g, added, sums, range)
    const values = fromBytes(g, inBytes(g, input, range), range)
    const shape = [...x.shape.slice(0, -1), count]
    const transB = { domain: 'com.microsoft', attributes: { transB: 1 }, name: path } as const
    // Factors go into the scales and the bias: behind a layer over (1, N, C) OpenVINO would multiply in a pass of its own.
    const scaledBy = (change: (constant: Value) => Value): Value =>
      g.add(g.node('FusedMatMul', [values, widened(g, weight, change(scales))], shape, transB), change(shift))
    const y = scaledBy((constant) => constant)
    g.scaled.set(y.name, (factors) => scaledBy((constant) => g.multiply(constant, factors)))
    return y
  }
  const parts = outputParts(path)
  if (parts % share.of !== 0) throw new AppError('internal', `${path}: its weight lies in ${parts} parts`)
  if (parts !== share.of) {
    const shares = Array.from({ length: parts }, (_, index) =>
      int8Linear(g, x, layer, path, outFeatures, { bias, share: { index, of: parts } }),
    )
    return g.concat(shares, 1)
  }
  const weight = g.int8Weight(
    `${path}.weight`,
    [parts, inFeatures, outFeatures / parts],
    [inFeatures, count],
    share.index,
  )
  return product(g, input, layer, { weight, scales, bias: added, name: path })
}

/** A square convolution with bias and a rounded weight. (B, in, H, W) → (B, out, H', W') */
export function int8Conv2d(
  g: GraphBuilder,
  x: Value,
  layer: QuantizedLayer,
  path: string,
  outChannels: number,
  { kernel, stride, padding, padEnd, size }: Window,
): Value {
  const [batch, inChannels, height, width] = x.shape
  const input = smoothed(g, x, layer, path, [inChannels, 1, 1])
  const scales = g.weight(`${path}.weight_scale`, [outChannels])
  const bias = g.weight(`${path}.bias`, [outChannels])
  if (weightLayout(g) === 'rows') {
    const weight = g.int8Weight(`${path}.weight`, [outChannels, inChannels, kernel, kernel])
    const range = rangeOfRows(layer, path)
    // What stands for 0 is put round the map, since a convolution puts 0 there, which stands for the lowest value.
    const bytes = inBytes(g, input, range)
    const padded =
      padding + padEnd === 0
        ? bytes
        : g.node(
            'Pad',
            [bytes, g.integers([0, 0, padding, padding, 0, 0, padEnd, padEnd]), rangeConstants(g, range).zeroPoint],
            [batch, inChannels, height + padding + padEnd, width + padding + padEnd],
            { attributes: { mode: 'constant' } },
          )
    const sums = g.weight(`${path}.weight_sum`, [outChannels])
    const inputs = [fromBytes(g, padded, range), widened(g, weight, scales), shifted(g, bias, sums, range)]
    const attributes = { kernel_shape: [kernel, kernel], strides: [stride, stride], pads: [0, 0, 0, 0] }
    return g.node('Conv', inputs, [batch, outChannels, ...size], { attributes, name: path })
  }
  const columns = kernel * kernel * inChannels
  const weight = g.int8Weight(`${path}.weight`, [columns, outChannels])
  const pixels = batch * size[0] * size[1]
  const toMap = (rows: Value): Value => g.transpose(g.reshape(rows, [batch, ...size, outChannels]), [0, 3, 1, 2])
  if (kernel === 1 && stride === 1 && padding === 0) {
    const rows = g.reshape(g.transpose(input, [0, 2, 3, 1]), [pixels, inChannels])
    return toMap(product(g, rows, layer, { weight, scales, bias, name: path }))
  }
  // A row of gathered windows has no scale of its own: its pixels are in nine rows.
  const bytes = wholeInBytes(g, input, layer)
  const last = g.transpose(bytes.values, [0, 2, 3, 1]) // (B, H, W, in)
  const padded = g.node(
    'Pad',
    [last, g.integers([0, padding, padding, 0, 0, padEnd, padEnd, 0]), bytes.zeroPoint],
    [batch, height + padding + padEnd, width + padding + padEnd, inChannels],
    { attributes: { mode: 'constant' } },
  )
  const windows: Value[] = []
  for (let row = 0; row < kernel; row++)
    for (let column = 0; column < kernel; column++) {
      const ends = [row + (size[0] - 1) * stride + 1, column + (size[1] - 1) * stride + 1]
      const bounds = [[row, column], ends, [1, 2], [stride, stride]].map((values) => g.integers(values))
      windows.push(g.node('Slice', [padded, ...bounds], [batch, ...size, inChannels]))
    }
  const rows = g.reshape(g.concat(windows, 3), [pixels, columns])
  const y = g.node(
    'MatMulIntegerToFloat',
    [rows, weight, bytes.scale, scales, bytes.zeroPoint, null, bias],
    [pixels, outChannels],
    { domain: 'com.microsoft', name: path },
  )
  return toMap(y)
}

type Operands = {
  readonly weight: Value
  readonly scales: Value
  readonly bias: Value | null
  readonly name: string
}

/** Rows, rounded each by itself or by the layer's range, times signed columns. */
function product(g: GraphBuilder, x: Value, layer: QuantizedLayer, { weight, scales, bias, name }: Operands): Value {
  const shape = [x.shape[0], weight.shape[1]]
  const options = { domain: 'com.microsoft', name } as const
  if (layer.range !== null) {
    const { values, scale, zeroPoint } = wholeInBytes(g, x, layer)
    return g.node('MatMulIntegerToFloat', [values, weight, scale, scales, zeroPoint, null, bias], shape, options)
  }
  const { values, rowScale } = rowsInBytes(g, x)
  const inputs = [values, weight, g.floats('one', [], [1]), scales, g.bytes('middle', [], [middle])]
  const y = g.multiply(g.node('MatMulIntegerToFloat', inputs, shape, options), rowScale)
  return bias ? g.add(y, bias) : y
}

/** Each row by its own largest absolute value; once for all layers that read it. (N, in) → bytes, and (N, 1) scales. */
function rowsInBytes(g: GraphBuilder, x: Value): { values: Value; rowScale: Value } {
  const [values, rowScale] = g.once(`rows of ${x.name}`, () => {
    const column = [x.shape[0], 1]
    const reduce = (operator: string): Value =>
      g.node(operator, [x, g.integers([1])], column, { attributes: { keepdims: 1 } })
    const lowest = g.node('Neg', [reduce('ReduceMin')], column)
    const largest = g.node('Max', [reduce('ReduceMax'), lowest, g.floats('smallest', [], [smallestScale])], column)
    const scale = g.multiply(largest, g.floats('1/127', [], [1 / 127]))
    const scaled = g.multiply(x, g.node('Reciprocal', [scale], column))
    return [toBytes(g, scaled, g.floats('one', [], [1]), g.bytes('middle', [], [middle])), scale]
  })
  return { values, rowScale }
}

/** A whole input by one range: the layer's, or the one that it has. */
function wholeInBytes(
  g: GraphBuilder,
  x: Value,
  { range }: QuantizedLayer,
): { values: Value; scale: Value; zeroPoint: Value } {
  if (range !== null) {
    const { scale, zeroPoint } = rangeConstants(g, range)
    const [values] = g.once(`bytes of ${x.name} ${scale.name}`, () => [toBytes(g, x, scale, zeroPoint)])
    return { values, scale, zeroPoint }
  }
  const [values, scale, zeroPoint] = g.once(`bytes of ${x.name}`, () =>
    g.split('DynamicQuantizeLinear', [x], [x.shape, [], []]),
  )
  return { values, scale, zeroPoint }
}

/** The range of a layer whose weights lie in rows. */
function rangeOfRows({ range }: QuantizedLayer, path: string): InputRange {
  if (range === null) throw new AppError('internal', `${path}: weights in rows need a range for their input`)
  return range
}

/** A value in the bytes of a range. OpenVINO's kernels round what they compute, but not behind a transposition. */
function inBytes(g: GraphBuilder, x: Value, range: InputRange): Value {
  const { scale, zeroPoint } = rangeConstants(g, range)
  const [bytes] = g.once(`bytes of ${x.name} ${scale.name}`, () => [
    g.beforeMoves(x, (value) => toBytes(g, value, scale, zeroPoint)),
  ])
  return bytes
}

/** Bytes as scale · q, which is scale · zeroPoint too large: {@link shifted} makes up for it. */
function fromBytes(g: GraphBuilder, bytes: Value, range: InputRange): Value {
  const { scale } = rangeConstants(g, range)
  const [values] = g.once(`scaled ${bytes.name} ${scale.name}`, () => [
    g.node('DequantizeLinear', [bytes, scale], bytes.shape),
  ])
  return values
}

/** The bias of a layer whose input is scale · zeroPoint too large everywhere; null stands for none. */
function shifted(g: GraphBuilder, bias: Value | null, sums: Value, { scale, zeroPoint }: InputRange): Value {
  const shift = scale * zeroPoint
  return plus(g, bias, g.multiply(sums, g.floats(`shift[${-shift}]`, [], [-shift])))
}

/** A sum, of which null stands for 0. */
function plus(g: GraphBuilder, a: Value | null, b: Value): Value {
  return a ? g.add(a, b) : b
}

/** What a norm gives, without its scale and bias. */
function withoutAffine(g: GraphBuilder, x: Value, path: string): Value {
  const bare = g.bare.get(x.name)
  if (!bare) throw new AppError('internal', `${path}: it reads no norm`)
  const [value] = g.once(`bare ${x.name}`, () => [bare()])
  return value
}

function rangeConstants(g: GraphBuilder, { scale, zeroPoint }: InputRange): { scale: Value; zeroPoint: Value } {
  const name = `range[${scale},${zeroPoint}]`
  return { scale: g.floats(name, [], [scale]), zeroPoint: g.bytes(`zero[${zeroPoint}]`, [], [zeroPoint]) }
}

function toBytes(g: GraphBuilder, x: Value, scale: Value, zeroPoint: Value): Value {
  return g.node('QuantizeLinear', [x, scale, zeroPoint], x.shape)
}

/** A rounded weight as floating-point numbers, for kernels that the backend fuses. */
function widened(g: GraphBuilder, weight: Value, scales: Value): Value {
  return g.node('DequantizeLinear', [weight, scales], weight.shape, { attributes: { axis: 0 } })
}

/** The input over its smoothing factors. */
function smoothed(
  g: GraphBuilder,
  x: Value,
  { smoothing }: QuantizedLayer,
  path: string,
  shape: readonly number[],
): Value {
  if (smoothing === null) return x
  const [value] = g.once(`smoothed ${x.name} ${smoothing}`, () => {
    const inverse = inverseFactorsOf(smoothing)
    if (elementCount(shape) !== inverse.length)
      throw new AppError('internal', `${x.name}: ${inverse.length} factors for [${shape.join()}]`)
    const scale = g.floats(`${path}.input_scale`, shape, inverse)
    // A LoRA reads the input as it is, so a second way to it would not save the first.
    const shorter = g.loraTargets.has(path) ? undefined : g.scaled.get(x.name)
    return [shorter ? shorter(scale) : g.multiply(x, scale)]
  })
  return value
}

function weightLayout(g: GraphBuilder): 'columns' | 'rows' {
  if (!g.quantization) throw new AppError('internal', `${g.name}: the graph is not quantised`)
  return g.quantization.weightLayout
}
