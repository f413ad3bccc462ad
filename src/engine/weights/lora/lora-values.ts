// The numbers of a LoRA's tensors, read when they are needed and checked to be numbers.
import { readTensorF32 } from '#tensor/safetensors.ts'
import type { Tensor } from '#tensor/tensor.ts'
import { AppError } from '../../../errors.ts'
import type { LokrFactor, Lora, LoraModule, LoraTensor } from './lora.ts'

/** A tensor as fp32. Throws `not_finite` when it holds NaN or infinity. */
export async function readLoraTensor(stored: LoraTensor): Promise<Tensor> {
  const tensor = await readTensorF32(stored)
  for (const value of tensor.data)
    if (!Number.isFinite(value)) {
      const file = 'file' in stored.source ? stored.source.file : 'a file'
      throw new AppError('not_finite', `lora ${file}: the tensor ${stored.name} holds ${value}`)
    }
  return tensor
}

/** Read all tensors once. Throws `not_finite` when one of them holds NaN or infinity, `bad_file` for a cut file. */
export async function checkLoraValues({ modules }: Lora): Promise<void> {
  for (const module of modules) for (const stored of loraTensors(module)) await readLoraTensor(stored)
}

/** Every tensor that a module's change is computed from. */
export function loraTensors({ change, dora, biasDiff }: LoraModule): LoraTensor[] {
  return [...(change ? changeTensors(change) : []), ...[dora?.lengths, biasDiff].filter((each) => each != null)]
}

function changeTensors(change: NonNullable<LoraModule['change']>): LoraTensor[] {
  switch (change.family) {
    case 'lora':
    case 'locon':
      return [change.down, change.up]
    case 'tucker':
      return [change.down, change.mid, change.up]
    case 'loha':
      return [
        change.w1a,
        change.w1b,
        change.w2a,
        change.w2b,
        ...(change.cores ? [change.cores.t1, change.cores.t2] : []),
      ]
    case 'lokr':
      return [...factorTensors(change.w1), ...factorTensors(change.w2), ...(change.t2 ? [change.t2] : [])]
    case 'full':
    case 'norm':
      return [change.diff]
  }
  return [change.factor]
}

function factorTensors(factor: LokrFactor): LoraTensor[] {
  return 'a' in factor ? [factor.a, factor.b] : [factor]
}
