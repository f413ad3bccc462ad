// Writes the part of onnx.proto that our graphs need, straight to protobuf's wire format: a message is a row of
// (field number, value) pairs, so each function below reads like its message in
// https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.

/** TensorProto.DataType. */
export const elementTypes = { float: 1, uint8: 2, int8: 3, int64: 7, float16: 10, bfloat16: 16 } as const
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
/** Bytes that any 64-bit integer fits into. */
const maxVarintBytes = 10

/** ModelProto as bytes that onnxruntime, OpenVINO and every ONNX tool read. */
export function encodeModel(model: ModelProto): Uint8Array {
  const out = new WireWriter()
  out.int(1, irVersion)
  out.string(2, 'sepia')
  out.message(7, () => {
    for (const node of model.nodes) out.message(1, () => writeNode(out, node))
    out.string(2, model.name)
    for (const tensor of model.initializers) out.message(5, () => writeTensor(out, tensor))
    for (const value of model.inputs) out.message(11, () => writeValueInfo(out, value))
    for (const value of model.outputs) out.message(12, () => writeValueInfo(out, value))
  })
  for (const [domain, version] of opsets)
    out.message(8, () => {
      out.string(1, domain)
      out.int(2, version)
    })
  return out.written()
}

function writeNode(out: WireWriter, node: NodeProto): void {
  for (const name of node.inputs) out.string(1, name)
  for (const name of node.outputs) out.string(2, name)
  out.string(3, node.name)
  out.string(4, node.opType)
  for (const [name, value] of Object.entries(node.attributes)) out.message(5, () => writeAttribute(out, name, value))
  if (node.domain !== '') out.string(7, node.domain)
}

function writeAttribute(out: WireWriter, name: string, value: Attribute): void {
  out.string(1, name)
  if (typeof value === 'number') {
    out.int(3, value)
    out.int(20, enum_.attributeInt)
  } else if (typeof value === 'string') {
    out.string(4, value)
    out.int(20, enum_.attributeString)
  } else if ('float' in value) {
    out.float(2, value.float)
    out.int(20, enum_.attributeFloat)
  } else {
    for (const item of value) out.int(8, item)
    out.int(20, enum_.attributeInts)
  }
}

function writeTensor(out: WireWriter, tensor: TensorProto): void {
  for (const size of tensor.shape) out.int(1, size)
  out.int(2, elementTypes[tensor.type])
  out.string(8, tensor.name)
  if (tensor.data instanceof Uint8Array) return out.bytes(9, tensor.data)
  for (const [key, value] of Object.entries(tensor.data))
    out.message(13, () => {
      out.string(1, key)
      out.string(2, String(value))
    })
  return out.int(14, enum_.externalData)
}

function writeValueInfo(out: WireWriter, value: ValueInfoProto): void {
  out.string(1, value.name)
  out.message(2, () =>
    out.message(1, () => {
      out.int(1, elementTypes[value.type])
      out.message(2, () => {
        for (const size of value.shape)
          out.message(1, () => (typeof size === 'string' ? out.string(2, size) : out.int(1, size)))
      })
    }),
  )
}

/** A message in protobuf's wire format (https://protobuf.dev/programming-guides/encoding/), in a buffer that grows. */
class WireWriter {
  #bytes = Buffer.allocUnsafe(1 << 16)
  #length = 0

  /** A copy of what has been written. */
  written(): Uint8Array {
    return new Uint8Array(this.#bytes.subarray(0, this.#length))
  }

  int(field: number, value: number): void {
    this.#varint(field * 8)
    this.#varint(value)
  }

  float(field: number, value: number): void {
    this.#varint(field * 8 + 5)
    this.#reserve(4)
    this.#length = this.#bytes.writeFloatLE(value, this.#length)
  }

  string(field: number, value: string): void {
    this.message(field, () => {
      // A UTF-16 unit is at most three bytes of UTF-8.
      this.#reserve(value.length * 3)
      this.#length += this.#bytes.write(value, this.#length)
    })
  }

  bytes(field: number, value: Uint8Array): void {
    this.message(field, () => {
      this.#reserve(value.length)
      this.#bytes.set(value, this.#length)
      this.#length += value.length
    })
  }

  /** A field of whatever `write` writes; its length, which stands before it, is only known afterwards. */
  message(field: number, write: () => void): void {
    this.#varint(field * 8 + 2)
    const start = this.#length
    this.#length += 1
    write()
    const size = this.#length - start - 1
    let sizeBytes = 1
    while (size >= 2 ** (7 * sizeBytes)) sizeBytes += 1
    if (sizeBytes > 1) {
      this.#reserve(sizeBytes)
      this.#bytes.copyWithin(start + sizeBytes, start + 1, this.#length)
    }
    this.#length = start
    this.#varint(size)
    this.#length += size
  }

  #varint(value: number): void {
    this.#reserve(maxVarintBytes)
    if (value < 0) {
      // Negative integers are their 64-bit two's complement.
      let rest = BigInt.asUintN(64, BigInt(value))
      for (; rest > 127n; rest >>= 7n) this.#bytes[this.#length++] = Number(rest & 127n) | 128
      this.#bytes[this.#length++] = Number(rest)
      return
    }
    let rest = value
    for (; rest > 127; rest = Math.floor(rest / 128)) this.#bytes[this.#length++] = (rest % 128) | 128
    this.#bytes[this.#length++] = rest
  }

  #reserve(count: number): void {
    if (this.#length + count <= this.#bytes.length) return
    const grown = Buffer.allocUnsafe(Math.max(2 * this.#bytes.length, this.#length + count))
    grown.set(this.#bytes)
    this.#bytes = grown
  }
}
