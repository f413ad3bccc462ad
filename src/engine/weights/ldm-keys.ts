// How the names of a single file become diffusers' keys: one pure function a network.
import { AppError } from '../../errors.ts'

/** Name → shape, for the tensors under one prefix of a file. */
export type Shapes = ReadonlyMap<string, readonly number[]>

/** Where a stored tensor goes: whole, as one of equal parts of its rows, transposed, or without trailing 1×1. */
export type KeyTarget = {
  readonly key: string
  readonly part?: { readonly index: number; readonly of: number }
  readonly form?: 'transposed' | 'squeezed'
}

/** The places of one stored tensor; null when the network has no place for the name. */
export type KeyMap = (name: string) => readonly KeyTarget[] | null

/** More layers than any encoder or transformer has; a number beyond it in a name is no layer's. */
export const maxLayers = 1000

/** The shape of a tensor that tells the structure, checked to have `rank` dimensions; null when the file lacks it. */
export function shapeOfRank(component: string, shapes: Shapes, name: string, rank: number): readonly number[] | null {
  const shape = shapes.get(name)
  if (shape === undefined) return null
  if (shape.length !== rank)
    throw new AppError(
      'wrong_architecture',
      `${component}: tensor ${name} has the shape [${shape.join(', ')}], expected ${rank} dimensions`,
    )
  return shape
}
