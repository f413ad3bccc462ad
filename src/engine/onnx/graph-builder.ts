// A graph is written front to back: every call adds one node and returns the value that it computes. Shapes are known
// at build time and travel with the values, so a wrong channel count is an error here, with the weight's name.
import { f32ToBf16 } from '#tensor/dtype.ts'
import { elementCount } from '#tensor/tensor.ts'
import { AppError } from '../../errors.ts'
import type { FloatFormat } from '../backend.ts'
import type { Quantization } from '../quantize/quantization.ts'
import { broadcast } from './broadcast.ts'
import {
  elementTypes,
  type Attribute,
  type ElementType,
  type NodeProto,
  type TensorProto,
  type ValueInfoProto,
} from './proto.ts'

/** What a node computes: its name in the graph and its shape. */
export type Value = { readonly name: string; readonly shape: readonly number[] }

/** A weight that the graph reads. */
export type WeightUse = {
  readonly key: string
  /** The shape in the state dict. */
  readonly shape: readonly number[]
  /** The shape that the graph reads the same bytes as, such as (C, 1, 1) for a bias over (B, C, H, W). */
  readonly readAs: readonly number[]
  /** The first row that is read; `readAs` says how many elements. */
  readonly firstRow: number
  /** `graph`: the graph's own number format. */
  readonly format: 'graph' | 'int8'
}

/** A network without its weights' bytes; {@link bindWeights} turns it into a model. */
export type Graph = {
  readonly name: string
  readonly precision: FloatFormat
  readonly nodes: readonly NodeProto[]
  readonly constants: readonly TensorProto[]
  /** Initialiser's name → what it reads: the state-dict key, or the key with a range of rows. */
  readonly weights: ReadonlyMap<string, WeightUse>
  readonly inputs: readonly ValueInfoProto[]
  readonly outputs: readonly ValueInfoProto[]
}

export type NodeOptions = {
  readonly attributes?: Readonly<Record<string, Attribute>>
  readonly domain?: 'com.microsoft'
  /** The module's path; the operator's own name is added to tell the nodes of one module apart. */
  readonly name?: string
}

/** How ONNX calls a graph's number format. */
const floatTypes = { fp32: 'float', fp16: 'float16', bf16: 'bfloat16' } as const satisfies Record<
  FloatFormat,
  ElementType
>

export class GraphBuilder {
  readonly name: string
  readonly precision: FloatFormat
  /** Paths of linears and convolutions that take a low-rank branch from the inputs, see layers.ts. */
  readonly loraTargets: ReadonlySet<string>
  /** Which layers compute in 8-bit integers; absent: none. */
  readonly quantization: Quantization | undefined
  /** Path of a linear or convolution → the value that it reads, and the edge of its window (1 for a linear). */
  readonly layerInputs = new Map<string, { readonly value: Value; readonly kernel: number }>()
  /** A value's name → how it is computed with its last axis multiplied by factors (C), without a pass of its own. */
  readonly scaled = new Map<string, (factors: Value) => Value>()
  /** A norm's result → the same without the norm's scale and bias. */
  readonly bare = new Map<string, () => Value>()
  /** A moved value's name → what was moved, and how: nothing but places of elements changes. */
  readonly #moves = new Map<string, { readonly from: Value; readonly move: (value: Value) => Value }>()
  readonly #nodes: NodeProto[] = []
  readonly #constants = new Map<string, TensorProto>()
  readonly #weights = new Map<string, WeightUse>()
  readonly #inputs: ValueInfoProto[] = []
  readonly #outputs: ValueInfoProto[] = []
  readonly #shared = new Map<string, readonly Value[]>()
  #count = 0

  constructor(
    name: string,
    precision: FloatFormat,
    loraTargets: ReadonlySet<string> = new Set(),
    quantization?: Quantization,
  ) {
    if (quantization && precision !== 'fp32')
      throw new AppError('internal', `${name}: a quantised graph is fp32 where it is not int8`)
    this.name = name
    this.precision = precision
    this.loraTargets = loraTargets
    this.quantization = quantization
  }

  /** The element type of weights and activations. */
  get floatType(): ElementType {
    return floatTypes[this.precision]
  }

  /** A floating-point input; callers always feed fp32. A named dimension may differ from run to run. */
  input(name: string, shape: readonly (number | string)[]): Value {
    this.#inputs.push({ name, type: 'float', shape })
    const value = { name, shape: shape.map((size) => (typeof size === 'string' ? -1 : size)) }
    return this.precision === 'fp32' ? value : this.#cast(value, this.floatType)
  }

  /** An input of positions or indexes. */
  indexInput(name: string, shape: readonly number[]): Value {
    this.#inputs.push({ name, type: 'int64', shape })
    return { name, shape }
  }

  /** Name `value` as an output; callers always get fp32. */
  output(name: string, value: Value): void {
    if (this.precision === 'fp32') {
      this.#add('Identity', [value.name], [name], {}, '', name)
    } else {
      this.#add('Cast', [value.name], [name], { to: elementTypes.float }, '', name)
    }
    this.#outputs.push({ name, type: 'float', shape: value.shape })
  }

  /** The weight under a state-dict key, optionally read as another shape of as many elements. */
  weight(key: string, shape: readonly number[], readAs: readonly number[] = shape): Value {
    return this.#weight(key, { key, shape, readAs, firstRow: 0, format: 'graph' })
  }

  /** Rows `first` to `first + count` of the weight under a state-dict key. */
  weightRows(key: string, shape: readonly number[], first: number, count: number): Value {
    return this.#weight(`${key}[${first}:${first + count}]`, {
      key,
      shape,
      readAs: [count, ...shape.slice(1)],
      firstRow: first,
      format: 'graph',
    })
  }

  /** The rounded weight under a key, or a range of its rows. */
  int8Weight(key: string, shape: readonly number[], readAs: readonly number[] = shape, firstRow = 0): Value {
    const name = readAs === shape ? key : `${key}[${firstRow}]`
    return this.#weight(name, { key, shape, readAs, firstRow, format: 'int8' })
  }

  /** A one-dimensional int64 constant: a shape, axes, indexes. */
  integers(values: readonly number[]): Value {
    const name = `int64[${values.join(',')}]`
    const data = new Uint8Array(BigInt64Array.from(values.map(BigInt)).buffer)
    this.#constants.set(name, { name, type: 'int64', shape: [values.length], data })
    return { name, shape: [values.length] }
  }

  /** A small floating-point constant in the graph's precision. */
  floats(name: string, shape: readonly number[], values: ArrayLike<number>): Value {
    const data = new Uint8Array(rounded(values, this.precision).buffer)
    this.#constants.set(name, { name, type: this.floatType, shape, data })
    return { name, shape }
  }

  /** A small constant of unsigned bytes. */
  bytes(name: string, shape: readonly number[], values: readonly number[]): Value {
    this.#constants.set(name, { name, type: 'uint8', shape, data: Uint8Array.from(values) })
    return { name, shape }
  }

  /** The values that `make` adds under a key, which are added once however often they are asked for. */
  once(key: string, make: () => readonly Value[]): readonly Value[] {
    const known = this.#shared.get(key)
    if (known) return known
    const values = make()
    this.#shared.set(key, values)
    return values
  }

  /** The scale factors of a Resize, which are fp32 in every precision. */
  scales(values: readonly number[]): Value {
    const name = `scales[${values.join(',')}]`
    const data = new Uint8Array(Float32Array.from(values).buffer)
    this.#constants.set(name, { name, type: 'float', shape: [values.length], data })
    return { name, shape: [values.length] }
  }

  /** One operator with one result of the given shape; null leaves an optional input out. */
  node(opType: string, inputs: readonly (Value | null)[], shape: readonly number[], options: NodeOptions = {}): Value {
    return this.split(opType, inputs, [shape], options)[0]
  }

  /** One operator with several results. */
  split(
    opType: string,
    inputs: readonly (Value | null)[],
    shapes: readonly (readonly number[])[],
    options: NodeOptions = {},
  ): Value[] {
    const name = options.name ? `${options.name}/${opType}_${this.#count++}` : `${opType}_${this.#count++}`
    const values = shapes.map((shape, index) => ({ name: shapes.length === 1 ? name : `${name}:${index}`, shape }))
    this.#add(
      opType,
      inputs.map((input) => input?.name ?? ''),
      values.map((value) => value.name),
      options.attributes ?? {},
      options.domain ?? '',
      name,
    )
    return values
  }

  reshape(value: Value, shape: readonly number[]): Value {
    if (value.shape.join() === shape.join()) return value
    if (!shape.includes(-1) && elementCount(value.shape) !== elementCount(shape))
      throw new AppError('internal', `${value.name}: [${value.shape.join()}] cannot be read as [${shape.join()}]`)
    const moved = this.node('Reshape', [value, this.integers(shape)], shape)
    this.#moves.set(moved.name, { from: value, move: (other) => this.reshape(other, shape) })
    return moved
  }

  transpose(value: Value, perm: readonly number[]): Value {
    const shape = perm.map((axis) => value.shape[axis])
    const moved = this.node('Transpose', [value], shape, { attributes: { perm } })
    this.#moves.set(moved.name, { from: value, move: (other) => this.transpose(other, perm) })
    return moved
  }

  /**
   * `change(value)`, for a change of each element by itself: done before the reshapes and transpositions that made the
   * value, next to what computed its elements.
   */
  beforeMoves(value: Value, change: (value: Value) => Value): Value {
    const made = this.#moves.get(value.name)
    return made ? made.move(this.beforeMoves(made.from, change)) : change(value)
  }

  add(a: Value, b: Value): Value {
    return this.node('Add', [a, b], broadcast(a, b))
  }

  multiply(a: Value, b: Value): Value {
    return this.node('Mul', [a, b], broadcast(a, b))
  }

  concat(values: readonly Value[], axis: number): Value {
    const total = values.reduce((sum, value) => sum + value.shape[axis], 0)
    const shape = values[0].shape.map((size, index) => (index === axis ? total : size))
    return this.node('Concat', values, shape, { attributes: { axis } })
  }

  finish(): Graph {
    // Nodes that nothing reads stay out: what was computed in another way in the end, see `scaled`.
    const read = new Set(this.#outputs.map(({ name }) => name))
    const nodes: NodeProto[] = []
    for (const node of this.#nodes.toReversed()) {
      if (!node.outputs.some((name) => read.has(name))) continue
      for (const name of node.inputs) read.add(name)
      nodes.push(node)
    }
    return {
      name: this.name,
      precision: this.precision,
      nodes: nodes.toReversed(),
      constants: [...this.#constants.values()].filter(({ name }) => read.has(name)),
      weights: this.#weights,
      inputs: this.#inputs,
      outputs: this.#outputs,
    }
  }

  #weight(name: string, use: WeightUse): Value {
    if (this.#weights.has(name)) throw new AppError('internal', `${name}: asked for twice`)
    this.#weights.set(name, use)
    return { name, shape: use.readAs }
  }

  #cast(value: Value, type: ElementType): Value {
    return this.node('Cast', [value], value.shape, { attributes: { to: elementTypes[type] } })
  }

  #add(
    opType: string,
    inputs: readonly string[],
    outputs: readonly string[],
    attributes: Readonly<Record<string, Attribute>>,
    domain: string,
    name: string,
  ): void {
    this.#nodes.push({ name, opType, domain, inputs, outputs, attributes })
  }
}

function rounded(values: ArrayLike<number>, precision: FloatFormat): Float32Array | Float16Array | Uint16Array {
  if (precision === 'fp16') return new Float16Array(values)
  const floats = new Float32Array(values)
  if (precision === 'fp32') return floats
  const words = new Uint16Array(values.length)
  f32ToBf16(floats, words)
  return words
}
