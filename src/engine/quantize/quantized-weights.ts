// A component's weights rounded to 8-bit integers, written once into the cache folder by streaming the checkpoint: one
// tensor at a time is in memory. What is not rounded is in the same file as fp32.
import { createHash } from 'node:crypto'
import { layoutSafetensors, writeSafetensors, type NewTensor } from '#tensor/safetensors-writer.ts'
import { readTensorF32 } from '#tensor/safetensors.ts'
import { AppError } from '../../errors.ts'
import { cachedFile, type PreparedWeights } from '../weights/cached-weights.ts'
import type { Component, GraphTensor, GraphWeights, StoredTensor, Weights } from '../weights/checkpoint.ts'
import { componentHash } from '../weights/hash.ts'
import type { CacheOptions } from '../weights/kept-file.ts'
import { inFileOrder, storedLength } from '../weights/tensor-stream.ts'
import { outputParts, quantizationDigest, type Quantization, type QuantizedLayer } from './quantization.ts'
import { readAffine } from './norm-affine.ts'
import { asColumns, roundWeights, rowProducts, rowSums } from './round-weights.ts'
import { factorsOf } from './smoothing.ts'

/** Part of what a rounded file is named by: raised when the same weights come out differently. */
const quantizeVersion = 2

export type QuantizeOptions = CacheOptions & {
  readonly quantization: Quantization
  /** Called after each tensor, with bytes of the source; never when nothing is to be done. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void
}

/** Tensors that LoRAs have changed, and what tells these changes apart. */
export type ChangedWeights = { readonly weights: Weights; readonly hash: string }

/** A tensor of the checkpoint, as what it goes into the file. */
type Plan = {
  readonly key: string
  readonly stored: StoredTensor
  /** Null: it stays as it is, in fp32. */
  readonly layer: QuantizedLayer | null
}

/**
 * The component's weights with every layer of the quantisation as int8 under its own key, its scales under
 * `<path>.weight_scale` and, where weights lie in rows, the sum of each rounded row under `<path>.weight_sum`; where a norm's
 * scale is in a weight, what the norm's bias gives under `<path>.weight_shift`. All else is fp32. With `changed` those tensors,
 * and weights that a changed norm is in, are rounded anew, into a file of their own.
 * Throws `disk_full`, `cache_unwritable`, `bad_file` when the source is cut off or has changed, and `not_finite`.
 */
export async function quantizeWeights(
  component: Component<object>,
  hash: string,
  options: QuantizeOptions,
  changed?: ChangedWeights,
): Promise<PreparedWeights<GraphWeights>> {
  const digest = `int8 v${quantizeVersion} ${quantizationDigest(options.quantization)}`
  const { name, weights } = component
  const base = await roundedFile({ name, source: weights, all: weights }, `${hash} ${digest}`, options, async () => {
    // Without it a file replaced since it was hashed would be kept under the wrong name.
    if ((await componentHash(component, options)) !== hash)
      throw new AppError('bad_file', `${component.name}: its files have changed since they were hashed; try again`)
  })
  if (!changed) return base
  try {
    const key = `${hash} ${changed.hash} ${digest}`
    const all = new Map([...weights, ...changed.weights])
    const source = withFollowers(changed.weights, all, options.quantization)
    const file = await roundedFile({ name, source, all }, key, options, async () => {})
    return {
      weights: new Map([...base.weights, ...file.weights]),
      [Symbol.dispose]() {
        file[Symbol.dispose]()
        base[Symbol.dispose]()
      },
    }
  } catch (error) {
    base[Symbol.dispose]()
    throw error
  }
}

/** The changed tensors, and the weights that a changed norm's scale and bias are in. */
function withFollowers(changed: Weights, all: Weights, { layers }: Quantization): Weights {
  const followers = [...layers].flatMap(([path, { norm }]) => {
    const isChanged = norm !== null && (changed.has(`${norm}.weight`) || changed.has(`${norm}.bias`))
    return isChanged ? [`${path}.weight`] : []
  })
  return new Map([...changed, ...followers.map((key) => [key, all.get(key)!] as const)])
}

async function roundedFile(
  { name, source, all }: { readonly name: string; readonly source: Weights; readonly all: Weights },
  key: string,
  options: QuantizeOptions,
  check: () => Promise<void>,
): Promise<PreparedWeights<GraphWeights>> {
  const { quantization, onProgress } = options
  const plans = inFileOrder(source).map(([tensor, stored]) => planOf(tensor, stored, quantization))
  const entries = plans.flatMap((plan) => entriesOf(plan, quantization))
  const layout = layoutSafetensors(entries)
  const hash = createHash('sha256').update(key).digest('hex')
  const cached = await cachedFile({ hash, dtype: 'I8', layout, name: `${name} in int8` }, options, async (handle) => {
    const totalBytes = plans.reduce((sum, { stored }) => sum + storedLength(stored), 0)
    const chunks = chunksOf(plans, all, quantization)
    let doneBytes = 0
    await writeSafetensors(handle, entries, async function* ({ name: wanted }: NewTensor) {
      const next = await chunks.next()
      if (next.done || next.value.name !== wanted)
        throw new AppError('internal', `quantize: lost the place at "${wanted}"`)
      yield next.value.bytes
      doneBytes += next.value.sourceBytes
      onProgress?.(doneBytes, totalBytes)
    })
    await check()
  })
  const weights = new Map<string, GraphTensor>()
  for (const { name: tensor, dtype, shape } of entries) {
    const { offset, length } = layout.tensors.get(tensor)!
    weights.set(tensor, { dtype, shape, source: { file: cached.file, offset, length } })
  }
  return { weights, [Symbol.dispose]: () => cached[Symbol.dispose]() }
}

function planOf(key: string, stored: StoredTensor, { layers }: Quantization): Plan {
  const layer = key.endsWith('.weight') ? layers.get(pathOf(key)) : undefined
  return { key, stored, layer: layer ?? null }
}

/** What a tensor becomes in the file: itself, or rounded values and their scales. */
function entriesOf(
  { key, stored: { shape }, layer }: Plan,
  { weightLayout }: Quantization,
): (NewTensor & { readonly dtype: 'F32' | 'I8' })[] {
  if (!layer) return [{ name: key, dtype: 'F32', shape }]
  return [
    { name: key, dtype: 'I8', shape: weightLayout === 'rows' ? shape : columnShape(pathOf(key), shape) },
    { name: `${key}_scale`, dtype: 'F32', shape: [shape[0]] },
    ...(weightLayout === 'rows' ? [{ name: `${key}_sum`, dtype: 'F32' as const, shape: [shape[0]] }] : []),
    ...(layer.norm === null ? [] : [{ name: `${key}_shift`, dtype: 'F32' as const, shape: [shape[0]] }]),
  ]
}

/** (out, in) → (parts, in, out / parts); (out, in, k, k) → (k · k · in, out). */
function columnShape(path: string, [outputs, inputs, ...kernel]: readonly number[]): readonly number[] {
  if (kernel.length > 0) return [kernel.reduce((product, size) => product * size, inputs), outputs]
  const parts = outputParts(path)
  return [parts, inputs, outputs / parts]
}

type Chunk = { readonly name: string; readonly bytes: Uint8Array; readonly sourceBytes: number }

/** The bytes of every entry, in their order. */
async function* chunksOf(
  plans: readonly Plan[],
  all: Weights,
  quantization: Quantization,
): AsyncGenerator<Chunk, void> {
  const { weightLayout, weightLimit: limit } = quantization
  for (const { key, stored, layer } of plans) {
    const sourceBytes = storedLength(stored)
    const { data } = await readTensorF32(stored)
    if (!layer) {
      yield { name: key, bytes: bytesOf(data), sourceBytes }
      continue
    }
    const [outputs, , ...kernel] = stored.shape
    const kernelArea = kernel.reduce((product, size) => product * size, 1)
    const smoothing = layer.smoothing === null ? null : factorsOf(layer.smoothing)
    const affine = layer.norm === null ? null : await readAffine(all, layer.norm)
    const factors = affine?.scale ?? smoothing
    const { values, scales } = roundWeights(key, data, { outputs, kernelArea, limit }, factors)
    const parts = kernel.length > 0 ? 1 : outputParts(pathOf(key))
    const laid = weightLayout === 'rows' ? values : asColumns(values, { outputs, kernelArea, parts })
    yield { name: key, bytes: bytesOf(laid), sourceBytes }
    yield { name: `${key}_scale`, bytes: bytesOf(scales), sourceBytes: 0 }
    if (weightLayout === 'rows')
      yield { name: `${key}_sum`, bytes: bytesOf(rowSums({ values, scales })), sourceBytes: 0 }
    if (affine) yield { name: `${key}_shift`, bytes: bytesOf(rowProducts(data, affine.shift)), sourceBytes: 0 }
  }
}

function pathOf(key: string): string {
  return key.slice(0, -'.weight'.length)
}

function bytesOf(array: Float32Array | Int8Array): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength)
}
