// Reads back from a model's bytes what it takes and answers: optimisers rename what lies between, but these names are ours.
import { AppError } from '../../errors.ts'

/** An output of a model; its shape is null where a dimension may differ from run to run. */
export type ModelOutput = { readonly name: string; readonly shape: readonly number[] | null }

/** Fields of onnx.proto by their numbers. */
const fields = {
  graph: 7,
  input: 11,
  output: 12,
  name: 1,
  type: 2,
  tensorType: 1,
  shape: 2,
  dim: 1,
  dimValue: 1,
} as const

/** The names of what an ONNX model takes. */
export function modelInputs(model: Uint8Array): ReadonlySet<string> {
  return new Set(parts(graphOf(model), fields.input).map(nameOf))
}

/** The outputs of an ONNX model in their order. */
export function modelOutputs(model: Uint8Array): readonly ModelOutput[] {
  return parts(graphOf(model), fields.output).map((value) => {
    const shape = [fields.type, fields.tensorType, fields.shape].reduce(
      (message, field) => first(message, field),
      value,
    )
    const dims = parts(shape, fields.dim).map((dim) => integer(dim, fields.dimValue))
    return { name: nameOf(value), shape: dims.every((dim) => dim !== null && dim >= 0) ? (dims as number[]) : null }
  })
}

function graphOf(model: Uint8Array): Uint8Array {
  const [graph] = parts(model, fields.graph)
  if (graph === undefined) throw new AppError('internal', 'model: has no graph')
  return graph
}

const nameOf = (value: Uint8Array): string => Buffer.from(first(value, fields.name)).toString('utf8')

function first(message: Uint8Array, field: number): Uint8Array {
  return parts(message, field)[0] ?? new Uint8Array()
}

/** The values of a length-delimited field, in order. */
function parts(message: Uint8Array, field: number): Uint8Array[] {
  const found: Uint8Array[] = []
  walk(message, (number, value) => {
    if (number === field && typeof value !== 'bigint') found.push(value)
  })
  return found
}

function integer(message: Uint8Array, field: number): number | null {
  let found: number | null = null
  walk(message, (number, value) => {
    if (number === field && typeof value === 'bigint') found = Number(BigInt.asIntN(64, value))
  })
  return found
}

/** Each field of a message: its number, and an integer or the bytes of what has a length. */
function walk(message: Uint8Array, visit: (field: number, value: bigint | Uint8Array) => void): void {
  let at = 0
  const varint = (): bigint => {
    for (let value = 0n, shift = 0n; ; shift += 7n) {
      const byte = message[at++]
      value |= BigInt(byte & 0x7f) << shift
      if (byte < 0x80) return value
      if (at >= message.length) throw new AppError('internal', 'model: is cut short')
    }
  }
  while (at < message.length) {
    const key = Number(varint())
    const type = key & 7
    if (type === 0) {
      visit(key >>> 3, varint())
      continue
    }
    const length = type === 2 ? Number(varint()) : type === 1 ? 8 : 4
    visit(key >>> 3, message.subarray(at, at + length))
    at += length
  }
}
