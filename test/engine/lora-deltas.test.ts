// What every family adds to a weight, held against LyCORIS.
import path from 'node:path'
import { expect, test } from 'vitest'
import type { LoraTensor } from '#engine/weights/lora/lora.ts'
import type { LoraTarget } from '#engine/weights/lora/lora-networks.ts'
import { splitName, type LoraRole } from '#engine/weights/lora/lora-suffixes.ts'
import { readModule } from '#engine/weights/lora/read-module.ts'
import { weightDelta } from '#engine/weights/lora/weight-delta.ts'
import { isFloatDType } from '#tensor/dtype.ts'
import { openSafetensors, readTensorF32 } from '#tensor/safetensors.ts'
import { goldenFolder, readGolden, relativeError } from '../support/golden.ts'

const file = path.join(goldenFolder, 'lora/deltas.safetensors')
const golden = await readGolden('lora/deltas.safetensors')
const { tensors } = await openSafetensors(file)
const names = [...new Set([...tensors.keys()].map((key) => key.split('/')[0]))].sort()

test('there is a fixture of every family', () => {
  expect(names).toHaveLength(35)
})

test.each(names)('%s', async (name) => {
  const weight = golden.get(`${name}/weight`)!
  const parts = new Map<LoraRole, LoraTensor>()
  let alpha: number | null = null
  let onInput: boolean | null = null
  for (const [key, { dtype, shape, offset, length }] of tensors) {
    if (!key.startsWith(`${name}/file/`)) continue
    const [split] = splitName(key.slice(`${name}/file/`.length))
    expect(split.module).toBe('m')
    const source = { file, offset, length }
    if (split.role === 'onInput') onInput = name.endsWith('-in')
    if (split.role === 'alpha') alpha = golden.get(key)!.data[0]
    parts.set(split.role, { name: key, dtype: isFloatDType(dtype) ? dtype : 'F32', shape, source })
  }
  const kind = weight.shape.length === 1 ? 'norm' : weight.shape.length === 2 ? 'linear' : 'conv'
  const target: LoraTarget = {
    network: 'unet',
    path: 'm',
    ldmPath: null,
    kind,
    weightShape: weight.shape,
    hasBias: true,
  }
  const nameOf = (role: LoraRole): string => role
  const module = readModule({ target, tensors: parts, alpha, onInput, scaleOf: () => 1, nameOf })
  const delta = await weightDelta(module, weight.data)
  const expected = golden.get(`${name}/delta`)!
  expect(relativeError({ shape: weight.shape, data: delta }, expected)).toBeLessThan(1e-6)
  const biasShape = module.biasDiff && (await readTensorF32(module.biasDiff)).shape
  expect(biasShape).toEqual(/-(full|norm)$/.test(name) ? [weight.shape[0]] : null)
})
