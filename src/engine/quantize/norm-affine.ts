import { readTensorF32 } from '#tensor/safetensors.ts'
import { AppError } from '../../errors.ts'
import type { Weights } from '../weights/checkpoint.ts'

/** What a LayerNorm does to the rows that it has normalised: x · scale + shift, (C) each. */
export type Affine = { readonly scale: Float32Array; readonly shift: Float32Array }

/** Scale and bias of the LayerNorm at `path`. */
export async function readAffine(weights: Weights, path: string): Promise<Affine> {
  const read = async (key: string): Promise<Float32Array> => {
    const stored = weights.get(key)
    if (!stored) throw new AppError('internal', `quantize: there is no ${key}`)
    return (await readTensorF32(stored)).data
  }
  return { scale: await read(`${path}.weight`), shift: await read(`${path}.bias`) }
}
