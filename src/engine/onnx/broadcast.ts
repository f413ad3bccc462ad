// ONNX's rule for operators of two values: axes are matched from the last one on, and a size of 1 fits every other.
import { AppError } from '../../errors.ts'
import type { Value } from './graph-builder.ts'

/** The shape of what two values make element by element. Throws `internal` where their shapes do not fit. */
export function broadcast(a: Value, b: Value): readonly number[] {
  const rank = Math.max(a.shape.length, b.shape.length)
  const at = (value: Value, axis: number): number => value.shape[axis - rank + value.shape.length] ?? 1
  return Array.from({ length: rank }, (_, axis) => {
    const [x, y] = [at(a, axis), at(b, axis)]
    if (x !== y && x !== 1 && y !== 1)
      throw new AppError('internal', `${a.name} [${a.shape.join()}] and ${b.name} [${b.shape.join()}] do not broadcast`)
    // A size that is known at the run only, −1, is wider than 1.
    return x === 1 ? y : x
  })
}
