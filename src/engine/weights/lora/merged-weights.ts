// Changes that are no product of two matrices are added to the weights, once a set of LoRAs and strengths. Only the
// changed tensors are written, into a file of the cache like any other; the rest stays where it is.
import { createHash } from 'node:crypto'
import { layoutSafetensors, writeSafetensors, type NewTensor } from '#tensor/safetensors-writer.ts'
import { readTensorF32 } from '#tensor/safetensors.ts'
import { AppError } from '../../../errors.ts'
import { cachedWeights, type PreparedWeights } from '../cached-weights.ts'
import type { Component, WeightDType } from '../checkpoint.ts'
import { halfFormats } from '../half-formats.ts'
import type { PrepareOptions } from '../prepared-cache.ts'
import type { ScaledModule } from './lora-branches.ts'
import { readLoraTensor } from './lora-values.ts'
import type { WeightMerge } from './network-loras.ts'
import { weightDelta } from './weight-delta.ts'

/** Part of what a merged file is named by: raised when the same LoRAs come out differently. */
const mergeVersion = 1

/**
 * `prepared` weights of a component with the changes added: W + Σ strength · ΔW, each ΔW made of the weight as it is
 * stored in the checkpoint. Takes over `prepared`, also when it throws: `not_finite` for NaN or infinity in a LoRA or in
 * the result (too large for fp16), `disk_full`, `cache_unwritable`, `bad_file`. Progress counts bytes of the result.
 */
export async function mergeWeights(
  component: Component<object>,
  baseHash: string,
  prepared: PreparedWeights,
  merge: WeightMerge,
  options: PrepareOptions,
): Promise<PreparedWeights> {
  const { dtype } = options
  try {
    const entries = [...merge.changes.keys()].map((name) => ({ name, dtype, shape: storedOf(component, name).shape }))
    const layout = layoutSafetensors(entries)
    const hash = createHash('sha256').update(`${baseHash} loras v${mergeVersion} ${merge.hash}`).digest('hex')
    const file = await cachedWeights(
      { hash, dtype, layout, name: `${component.name} with LoRAs` },
      options,
      async (handle) => {
        let doneBytes = 0
        await writeSafetensors(handle, entries, async function* (entry: NewTensor) {
          const bytes = await mergedBytes(component, entry.name, merge.changes.get(entry.name)!, dtype)
          doneBytes += bytes.length
          yield bytes
          options.onProgress?.(doneBytes, layout.size - layout.header.length)
        })
      },
    )
    return {
      weights: new Map([...prepared.weights, ...file.weights]),
      [Symbol.dispose]() {
        file[Symbol.dispose]()
        prepared[Symbol.dispose]()
      },
    }
  } catch (error) {
    prepared[Symbol.dispose]()
    throw error
  }
}

async function mergedBytes(
  component: Component<object>,
  name: string,
  changes: readonly ScaledModule[],
  dtype: WeightDType,
): Promise<Uint8Array> {
  const { data: base } = await readTensorF32(storedOf(component, name))
  const result = base.slice()
  for (const { module, strength } of changes) {
    const isBias = name === `${module.target.path}.bias`
    const delta = isBias ? (await readLoraTensor(module.biasDiff!)).data : await weightDelta(module, base)
    for (let i = 0; i < result.length; i++) result[i] += strength * delta[i]
  }
  const largest = largestOf(result)
  if (!Number.isFinite(largest)) throw tooLarge(component, name, 'is no finite number any more')
  if (dtype === 'F32') return new Uint8Array(result.buffer, result.byteOffset, result.byteLength)
  const halves = new Uint16Array(result.length)
  const { ends, round } = halfFormats[dtype]
  if (round(result, halves) > 0) throw tooLarge(component, name, `holds ±${largest}, ${ends}`)
  return new Uint8Array(halves.buffer)
}

/** The largest absolute value; NaN where there is one. */
function largestOf(data: Float32Array): number {
  let largest = 0
  for (const value of data) {
    const size = Math.abs(value)
    if (!(size <= largest)) largest = size
    if (Number.isNaN(largest)) return largest
  }
  return largest
}

function tooLarge({ name }: Component<object>, weight: string, problem: string): AppError {
  return new AppError('not_finite', `loras: with them the ${name}'s weight ${weight} ${problem}`, { field: 'loras' })
}

function storedOf(
  component: Component<object>,
  name: string,
): NonNullable<ReturnType<Component<object>['weights']['get']>> {
  const stored = component.weights.get(name)
  if (!stored) throw new AppError('internal', `lora: the ${component.name} has no ${name}`)
  return stored
}
