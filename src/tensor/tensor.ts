import { AppError } from '../errors.ts'

/** A dense row-major fp32 array on the host. */
export type Tensor = { readonly shape: readonly number[]; readonly data: Float32Array }

/** The number of elements of `shape`; 1 for a scalar. */
export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1)
}

/** A tensor over `data`, which is not copied. Throws when the count of elements is not that of `shape`. */
export function tensor(shape: readonly number[], data: Float32Array): Tensor {
  if (elementCount(shape) !== data.length)
    throw new AppError('internal', `tensor: shape [${shape.join(', ')}] does not hold ${data.length} elements`)
  return { shape, data }
}

/** A tensor of zeros. */
export function zeros(shape: readonly number[]): Tensor {
  return { shape, data: new Float32Array(elementCount(shape)) }
}
