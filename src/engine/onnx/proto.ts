// Writes the part of onnx.proto that our graphs need, straight to protobuf's wire format: a message is a list of
// (field number, value) pairs, so each function below reads like its message in
// https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.

/** TensorProto.DataType. */
export const elementTypes = { float: 1, int64: 7, float16: 10 } as const
export type ElementType = keyof typeof elementTypes

/** AttributeProto: a plain number is an integer; fractions are wrapped, so that 1 and 1.0 stay apart. */
export type Attribute = number | string | readonly number[] | { readonly float: number }

export type NodeProto = {
  readonly name: string
  readonly opType: string
  /** '' for ONNX's own operators. */
  readonly domain: string
  /** '' leaves an optional input out. */
  readonly inputs: readonly string[]
  readonly outputs: readonly string[]
  readonly attributes: Readonly<Record<string, Attribute>>
}

export type ValueInfoProto = {
  readonly name: string
  readonly type: ElementType
  /** A name stands for a dimension that may differ from run to run. */
  readonly shape: readonly (number | string)[]
}

export type TensorProto = {
  readonly name: string
  readonly type: ElementType
  readonly shape: readonly number[]
  /** Little-endian bytes, or where they lie in a file named relative to the session's external data folder. */
  readonly data: Uint8Array | { readonly location: string; readonly offset: number; readonly length: number }
}

export type ModelProto = {
  readonly name: string
  readonly nodes: readonly NodeProto[]
  readonly initializers: readonly TensorProto[]
  readonly inputs: readonly ValueInfoProto[]
  readonly outputs: readonly ValueInfoProto[]
}

const irVersion = 10
const opsets = [
  ['', 21],
  ['com.microsoft', 1],
] as const

const enum_ = { attributeFloat: 1, attributeInt: 2, attributeString: 3, attributeInts: 7, externalData: 1 } as const

type Bytes = Uint8Array
const utf8 = new TextEncoder()

/** ModelProto as bytes that onnxruntime, OpenVINO and every ONNX tool read. */
export function encodeModel(model: ModelProto): Uint8Array {
  const graph = message([
    ...model.nodes.map((node) => bytesField(1, encodeNode(node))),
    stringField(2, model.name),
    ...model.initializers.map((tensor) => bytesField(5, encodeTensor(tensor))),
    ...model.inputs.map((value) => bytesField(11, encodeValueInfo(value))),
    ...model.outputs.map((value) => bytesField(12, encodeValueInfo(value))),
  ])
  const imports = opsets.map(([domain, version]) =>
    bytesField(8, message([stringField(1, domain), intField(2, version)])),
  )
  return message([intField(1, irVersion), stringField(2, 'sepia'), bytesField(7, graph), ...imports])
}

function encodeNode(node: NodeProto): Bytes {
  return message([
    ...node.inputs.map((name) => stringField(1, name)),
    ...node.outputs.map((name) => stringField(2, name)),
    stringField(3, node.name),
    stringField(4, node.opType),
    ...Object.entries(node.attributes).map(([name, value]) => bytesField(5, encodeAttribute(name, value))),
    ...(node.domain === '' ? [] : [stringField(7, node.domain)]),
  ])
}

function encodeAttribute(name: string, value: Attribute): Bytes {
  if (typeof value === 'number')
    return message([stringField(1, name), intField(3, value), intField(20, enum_.attributeInt)])
  if (typeof value === 'string')
    return message([stringField(1, name), stringField(4, value), intField(20, enum_.attributeString)])
  if ('float' in value)
    return message([stringField(1, name), floatField(2, value.float), intField(20, enum_.attributeFloat)])
  return message([stringField(1, name), ...value.map((item) => intField(8, item)), intField(20, enum_.attributeInts)])
}

function encodeTensor(tensor: TensorProto): Bytes {
  const head = [
    ...tensor.shape.map((size) => intField(1, size)),
    intField(2, elementTypes[tensor.type]),
    stringField(8, tensor.name),
  ]
  if (tensor.data instanceof Uint8Array) return message([...head, bytesField(9, tensor.data)])
  const { location, offset, length } = tensor.data
  const entries = [
    ['location', location],
    ['offset', String(offset)],
    ['length', String(length)],
  ] as const
  return message([
    ...head,
    ...entries.map(([key, value]) => bytesField(13, message([stringField(1, key), stringField(2, value)]))),
    intField(14, enum_.externalData),
  ])
}

function encodeValueInfo(value: ValueInfoProto): Bytes {
  const shape = message(
    value.shape.map((size) =>
      bytesField(1, message([typeof size === 'string' ? stringField(2, size) : intField(1, size)])),
    ),
  )
  const tensorType = message([intField(1, elementTypes[value.type]), bytesField(2, shape)])
  return message([stringField(1, value.name), bytesField(2, message([bytesField(1, tensorType)]))])
}

// Protobuf's wire format: https://protobuf.dev/programming-guides/encoding/

const wire = { varint: 0, lengthDelimited: 2, fixed32: 5 } as const

function message(fields: readonly Bytes[]): Bytes {
  return Buffer.concat(fields)
}

function tag(field: number, type: number): Bytes {
  return varint(field * 8 + type)
}

function intField(field: number, value: number): Bytes {
  return Buffer.concat([tag(field, wire.varint), varint(value)])
}

function floatField(field: number, value: number): Bytes {
  const bytes = Buffer.alloc(4)
  bytes.writeFloatLE(value)
  return Buffer.concat([tag(field, wire.fixed32), bytes])
}

function bytesField(field: number, value: Bytes): Bytes {
  return Buffer.concat([tag(field, wire.lengthDelimited), varint(value.length), value])
}

function stringField(field: number, value: string): Bytes {
  return bytesField(field, utf8.encode(value))
}

function varint(value: number): Bytes {
  const bytes: number[] = []
  // Negative integers are their 64-bit two's complement.
  let rest = BigInt.asUintN(64, BigInt(value))
  while (rest > 127n) {
    bytes.push(Number(rest & 127n) | 128)
    rest >>= 7n
  }
  bytes.push(Number(rest))
  return Uint8Array.from(bytes)
}
