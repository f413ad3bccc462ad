import { AppError } from '../../errors.ts'
import { tensor, type Tensor } from '#tensor/tensor.ts'

/** `formula` of each pair of elements, rounded to fp32. Both tensors have one shape. */
export function combine(a: Tensor, b: Tensor, formula: (a: number, b: number) => number): Tensor {
  const left = a.data
  const right = b.data
  if (left.length !== right.length)
    throw new AppError('internal', `combine: shapes [${a.shape.join()}] and [${b.shape.join()}] differ`)
  const result = new Float32Array(left.length)
  for (let i = 0; i < result.length; i++) result[i] = formula(left[i], right[i])
  return tensor(a.shape, result)
}
