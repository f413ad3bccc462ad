// What a calibration wants to know of every layer's input, computed where the input is: the smallest and largest value of
// each channel, and a few of its rows or windows, instead of the input itself.
import type { GraphBuilder, Value } from '../onnx/graph-builder.ts'
import { normBefore } from './quantization.ts'

/** Rows of a linear's input, and windows of a convolution's, that one evaluation shows. */
const sampledRows = 8
const sampledWindows = 3
/** Tokens of one chunk of text. */
const shortestText = 77

/** One value of the graph that layers read, and the names of the outputs that tell of it. */
export type ObservedInput = {
  readonly paths: readonly string[]
  /** Path of the LayerNorm that they read, of which the value is shown without its scale and bias; null: no norm. */
  readonly norm: string | null
  readonly channels: number
  /** Elements of a window for each channel: 1 for a linear. */
  readonly kernelArea: number
  /** Whether it is a feature map, (B, C, H, W), or rows, (N, C). */
  readonly isMap: boolean
  /** Rows or windows in the sample of one evaluation. */
  readonly samples: number
  /** (C) each. */
  readonly minimum: string
  readonly maximum: string
  /** (samples, C) of rows, (C, samples · kernelArea) of a feature map. */
  readonly sample: string
}

/** Add outputs for the inputs of the layers at `paths`, of which those that read the same value share one. */
export function observeInputs(g: GraphBuilder, paths: ReadonlySet<string>): ObservedInput[] {
  const inputs = [...g.layerInputs].filter(([path]) => paths.has(path))
  const groups = Map.groupBy(inputs, ([, { value, kernel }]) => `${value.name} ${kernel}`)
  return [...groups.values()].map((group, index) => {
    const { value: read, kernel } = group[0][1]
    const norm = normBefore(group[0][0])
    const value = norm === null ? read : g.bare.get(read.name)!()
    const isMap = value.shape.length === 4
    const channels = value.shape[1]
    const axes = g.integers(isMap ? [0, 2, 3] : [0])
    const [minimum, maximum, sample] = ['minimum', 'maximum', 'sample'].map((what) => `observed.${index}.${what}`)
    const reduce = (operator: string): Value =>
      g.node(operator, [value, axes], [channels], { attributes: { keepdims: 0 } })
    g.output(minimum, reduce('ReduceMin'))
    g.output(maximum, reduce('ReduceMax'))
    g.output(sample, isMap ? windowsOf(g, value, kernel) : rowsOf(g, value))
    return {
      minimum,
      maximum,
      sample,
      channels,
      kernelArea: kernel * kernel,
      samples: isMap ? sampledWindows : Math.min(sampledRows, rowCount(value)),
      isMap,
      norm,
      paths: group.map(([path]) => path),
    }
  })
}

/** Some rows of (N, C), spread over all of them; the first one is among them, which a text's beginning is. */
function rowsOf(g: GraphBuilder, value: Value): Value {
  const [rows, channels] = [rowCount(value), value.shape[1]]
  const count = Math.min(sampledRows, rows)
  const indexes = Array.from({ length: count }, (_, index) => Math.floor((index * (rows - 1)) / Math.max(1, count - 1)))
  return g.node('Gather', [value, g.integers(indexes)], [count, channels], { attributes: { axis: 0 } })
}

/** Rows of (N, C); where a text of any length gives them, those of its shortest. */
function rowCount({ shape: [rows] }: Value): number {
  return rows > 0 ? rows : shortestText
}

/** Some windows of the first picture's (C, H, W), on a diagonal; a map smaller than the window shows its edge again. */
function windowsOf(g: GraphBuilder, value: Value, kernel: number): Value {
  const [batch, channels, height, width] = value.shape
  const indexes: number[] = []
  for (let window = 0; window < sampledWindows; window++) {
    const along = (window + 0.5) / sampledWindows
    const top = Math.floor(along * Math.max(0, height - kernel))
    const left = Math.floor((1 - along) * Math.max(0, width - kernel))
    for (let row = 0; row < kernel; row++)
      for (let column = 0; column < kernel; column++)
        indexes.push(Math.min(top + row, height - 1) * width + Math.min(left + column, width - 1))
  }
  const flat = g.reshape(value, [batch * channels, height * width])
  const first =
    batch === 1
      ? flat
      : g.node('Slice', [flat, ...[[0], [channels], [0]].map((v) => g.integers(v))], [channels, height * width])
  return g.node('Gather', [first, g.integers(indexes)], [channels, indexes.length], { attributes: { axis: 1 } })
}
