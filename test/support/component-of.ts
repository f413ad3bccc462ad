import type { Component, ComponentName, StoredTensor, WeightDType } from '#engine/weights/checkpoint.ts'
import { openSafetensors } from '#tensor/safetensors.ts'

/** A component whose weights are all tensors of one safetensors file, under their names there. */
export async function componentOf(name: ComponentName, file: string): Promise<Component<object>> {
  const { tensors } = await openSafetensors(file)
  const weights = new Map<string, StoredTensor>()
  for (const [key, { dtype, shape, offset, length }] of tensors)
    weights.set(key, { dtype: dtype as WeightDType, shape, source: { file, offset, length } })
  return { name, config: { of: name }, weights }
}
