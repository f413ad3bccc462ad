// Weights in the format that the graphs compute in. A checkpoint that has it already is read where it lies; any other is
// converted once into the cache folder, as one safetensors file a component, which onnxruntime then maps from disk.
import type { FileHandle } from 'node:fs/promises'
import { toF32 } from '#tensor/dtype.ts'
import {
  layoutSafetensors,
  writeSafetensors,
  type NewTensor,
  type SafetensorsLayout,
} from '#tensor/safetensors-writer.ts'
import { AppError } from '../../errors.ts'
import { cachedWeights, type PreparedWeights } from './cached-weights.ts'
import type { Component, StoredTensor, WeightDType } from './checkpoint.ts'
import { halfFormats, type HalfDType } from './half-formats.ts'
import { componentHash } from './hash.ts'
import type { CacheOptions } from './kept-file.ts'
import { inFileOrder, storedLength, streamTensors, type TensorPiece } from './tensor-stream.ts'

/** The table of token embeddings: its rows are looked up from the original file, so that it is never converted. */
export const tokenTable = 'text_model.embeddings.token_embedding.weight'

/** Stored bytes read at once; 8 MiB of fp16 become 16 MiB of fp32. */
const pieceBytes = 8 * 1024 * 1024

export type PrepareOptions = CacheOptions & {
  readonly dtype: WeightDType
  /** Called after each piece of the work, with bytes of the source; never when nothing is to be done. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void
}

/**
 * The component's weights with every tensor in `dtype`, except the table of token embeddings, which stays as it is stored.
 * `hash` is the component's content hash (hash.ts), remembered in the same `cacheDir`. When all are in `dtype` already,
 * they are returned as they are; otherwise they point into a file of the cache, made by the first caller while others
 * wait. Map them soon: another process may evict a file that was not used for ten seconds. `freeBytes` tells what the
 * folder's disk has left. Throws `disk_full`, `cache_unwritable`, `bad_file` when the source is cut off or has changed,
 * and `not_finite` when a weight is too large for `dtype`.
 */
export async function prepareWeights(
  component: Component<object>,
  hash: string,
  options: PrepareOptions,
  { freeBytes }: { freeBytes?: (folder: string) => Promise<number> } = {},
): Promise<PreparedWeights> {
  const { dtype } = options
  const converted = new Map([...component.weights].filter(([name]) => name !== tokenTable))
  // What lies in memory, because the file has it in another order, goes into the graph itself.
  if ([...converted.values()].every((tensor) => tensor.dtype === dtype))
    return { weights: component.weights, [Symbol.dispose]() {} }

  const entries = inFileOrder(converted)
  const layout = layoutSafetensors(entries.map(([name, { shape }]) => ({ name, dtype, shape })))
  const file = await cachedWeights(
    { hash, dtype, layout, name: component.name },
    options,
    (handle) => write(component, hash, entries, layout, handle, options),
    freeBytes,
  )
  const weights = new Map(
    [...component.weights].map(([name, tensor]) => [name, name === tokenTable ? tensor : file.weights.get(name)!]),
  )
  return { weights, [Symbol.dispose]: () => file[Symbol.dispose]() }
}

/** Convert everything into an open file. */
async function write(
  component: Component<object>,
  hash: string,
  entries: readonly (readonly [string, StoredTensor])[],
  layout: SafetensorsLayout,
  handle: FileHandle,
  { dtype, cacheDir, scratchDir, onProgress }: PrepareOptions,
): Promise<void> {
  const totalBytes = entries.reduce((sum, [, tensor]) => sum + storedLength(tensor), 0)
  const pieces = ahead(convert(streamTensors(entries, pieceBytes), dtype))
  let doneBytes = 0
  async function* bytesOf({ name }: NewTensor): AsyncGenerator<Uint8Array> {
    for (let last = false; !last;) {
      const next = await pieces.next()
      if (next.done || next.value.name !== name) throw new AppError('internal', `prepare: lost the place at "${name}"`)
      yield next.value.bytes
      ;({ last } = next.value)
      doneBytes += next.value.sourceBytes
      onProgress?.(doneBytes, totalBytes)
    }
  }
  try {
    await writeSafetensors(
      handle,
      [...layout.tensors].map(([name, { shape }]) => ({ name, dtype, shape })),
      bytesOf,
    )
    // Usually a few stat calls; without it a file replaced since it was hashed would be kept under the wrong name.
    if ((await componentHash(component, { cacheDir, scratchDir })) !== hash)
      throw new AppError('bad_file', `${component.name}: its files have changed since they were hashed; try again`)
  } finally {
    await pieces.return(undefined)
  }
}

type Converted = {
  readonly name: string
  readonly bytes: Uint8Array
  readonly sourceBytes: number
  readonly last: boolean
}

/** Each piece in `dtype`; its bytes are valid until the next but one is asked for. */
async function* convert(pieces: AsyncIterable<TensorPiece>, dtype: WeightDType): AsyncGenerator<Converted> {
  // The largest growth is 16 to 32 bits. Two of them: one is written while the other is filled.
  const outputs = [new ArrayBuffer(2 * pieceBytes), new ArrayBuffer(2 * pieceBytes)] as const
  const between = new Float32Array(dtype === 'F32' ? 0 : pieceBytes / 2)
  let turn = 0
  for await (const { name, tensor, bytes, last } of pieces) {
    const output = outputs[turn++ % 2]
    const count = bytes.length / (tensor.dtype === 'F32' ? 4 : 2)
    const size = count * (dtype === 'F32' ? 4 : 2)
    const result = new Uint8Array(output, 0, size)
    if (tensor.dtype === dtype) result.set(bytes)
    else if (dtype === 'F32') toF32(tensor.dtype, bytes, new Float32Array(output, 0, count))
    else halve(name, dtype, toF32(tensor.dtype, bytes, between.subarray(0, count)), new Uint16Array(output, 0, count))
    yield { name, bytes: result, sourceBytes: bytes.length, last }
  }
}

function halve(name: string, dtype: HalfDType, values: Float32Array, out: Uint16Array): void {
  const { ends, round } = halfFormats[dtype]
  if (round(values, out) === 0) return
  const largest = values.reduce((max, value) => Math.max(max, Math.abs(value)), 0)
  throw new AppError('not_finite', `precision: weight "${name}" holds ±${largest}, ${ends}; this model needs fp32`)
}

/** The same items, with the next one under way while the caller works on the current one. */
async function* ahead<T>(source: AsyncGenerator<T>): AsyncGenerator<T, void, undefined> {
  let pending = source.next()
  try {
    for (;;) {
      const { done, value } = await pending
      if (done) return
      pending = source.next()
      // Awaited at the next turn; until then a failure must not count as unhandled.
      pending.catch(() => undefined)
      yield value
    }
  } finally {
    await Promise.allSettled([pending])
    await source.return(undefined)
  }
}
