// Views of a storage as PyTorch describes them: an offset, and for each dimension a size and a stride, in elements.
import type { TorchTensor } from './pickle-value.ts'

type View = Pick<TorchTensor, 'offset' | 'shape' | 'strides'>

/** Whether the elements lie behind each other in row-major order. A dimension of one element has any stride. */
export function isContiguous({ shape, strides }: View): boolean {
  let expected = 1
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (shape[axis] !== 1 && strides[axis] !== expected) return false
    expected *= shape[axis]
  }
  return true
}

/** The place of the last element in the storage, −1 for an empty tensor; null when it cannot be counted. */
export function lastElement({ offset, shape, strides }: View): number | null {
  if (shape.includes(0)) return -1
  const last = shape.reduce((sum, size, axis) => sum + (size - 1) * strides[axis], offset)
  return Number.isSafeInteger(last) ? last : null
}

/** The elements of a view in row-major order; `stored` begins with the first of them. */
export function rowMajor(stored: Uint8Array<ArrayBuffer>, itemBytes: number, { shape, strides }: View): Uint8Array {
  const count = shape.reduce((product, size) => product * size, 1)
  const result = new Uint8Array(count * itemBytes)
  // Eight bytes are copied as two items: as one number they could be a NaN, whose bits are not kept.
  const words = itemBytes === 8 ? 2 : 1
  const source = itemsOf(stored, itemBytes / words)
  const target = itemsOf(result, itemBytes / words)
  const index = shape.map(() => 0)
  let from = 0
  for (let to = 0; to < count; to++) {
    for (let word = 0; word < words; word++) target[to * words + word] = source[from * words + word]
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      index[axis]++
      from += strides[axis]
      if (index[axis] < shape[axis]) break
      from -= strides[axis] * shape[axis]
      index[axis] = 0
    }
  }
  return result
}

/** Bytes as unsigned items of one, two or four bytes. */
function itemsOf(
  { buffer, byteLength }: Uint8Array<ArrayBuffer>,
  size: number,
): Uint8Array | Uint16Array | Uint32Array {
  if (size === 1) return new Uint8Array(buffer, 0, byteLength)
  return size === 2 ? new Uint16Array(buffer, 0, byteLength / 2) : new Uint32Array(buffer, 0, byteLength / 4)
}
