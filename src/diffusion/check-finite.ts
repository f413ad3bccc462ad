import type { Tensor } from '#tensor/tensor.ts'
import { AppError } from '../errors.ts'

/** Throws `not_finite` when `what` holds NaN or infinity: a picture made from it would be black or noise. */
export function checkFinite({ data }: Tensor, what: string): void {
  for (let i = 0; i < data.length; i++) {
    if (!Number.isFinite(data[i]))
      throw new AppError(
        'not_finite',
        `${what} is not finite (${data[i]} at element ${i}): the weights may be damaged, or too large for this precision`,
      )
  }
}
