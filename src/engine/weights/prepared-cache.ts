// Weights in the format that the graphs compute in. A checkpoint that has it already is read where it lies; any other is
// converted once into the cache folder, as one safetensors file a component, which onnxruntime then maps from disk.
import { open, rename, rm, statfs, utimes } from 'node:fs/promises'
import path from 'node:path'
import { f32ToF16, toF32 } from '#tensor/dtype.ts'
import {
  layoutSafetensors,
  writeSafetensors,
  type NewTensor,
  type SafetensorsLayout,
} from '#tensor/safetensors-writer.ts'
import { openSafetensors } from '#tensor/safetensors.ts'
import { AppError } from '../../errors.ts'
import { cacheFault, makeFolder } from './cache-folder.ts'
import { withLock } from './cache-lock.ts'
import type { Component, StoredTensor, Weights } from './checkpoint.ts'
import { componentHash } from './hash.ts'
import { evictPrepared, holdPrepared } from './prepared-files.ts'
import { inFileOrder, storedLength, streamTensors, type TensorPiece } from './tensor-stream.ts'

/** Part of every cached file's name: raised when the same checkpoint has to be prepared differently. */
export const WEIGHTS_VERSION = 1

/** The table of token embeddings: its rows are looked up from the original file, so that it is never converted. */
export const tokenTable = 'text_model.embeddings.token_embedding.weight'

/** Stored bytes read at once; 8 MiB of fp16 become 16 MiB of fp32. */
const pieceBytes = 8 * 1024 * 1024

/** Weights to compile a network from; dispose of them when the network is closed, so that their file may be evicted. */
export type PreparedWeights = Disposable & { readonly weights: Weights }

export type PrepareOptions = {
  readonly dtype: 'F32' | 'F16'
  /** Prepared files are in `<cacheDir>/weights`; made when missing. */
  readonly cacheDir: string
  /** An existing folder on the same file system for the half-written file. */
  readonly scratchDir: string
  /** Above this total of prepared files the least recently used go, except those that are in use in this process. */
  readonly limitBytes: number
  /** Called after each piece that was converted, with bytes of the source; never when nothing is to be done. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void
}

/**
 * The component's weights with every tensor in `dtype`, except the table of token embeddings, which stays as it is stored.
 * `hash` is the component's content hash (hash.ts), remembered in the same `cacheDir`. When all are in `dtype` already,
 * they are returned as they are; otherwise they point into a file of the cache, made by the first caller while others
 * wait. Map them soon: another process may evict a file that was not used for ten seconds. `freeBytes` tells what the
 * folder's disk has left. Throws `disk_full`, `cache_unwritable`, `bad_file` when the source is cut off or has changed,
 * and `not_finite` when a weight is too large for fp16.
 */
export async function prepareWeights(
  component: Component<object>,
  hash: string,
  options: PrepareOptions,
  { freeBytes = freeDiskBytes }: { freeBytes?: (folder: string) => Promise<number> } = {},
): Promise<PreparedWeights> {
  const { dtype } = options
  if (!/^[0-9a-f]{64}$/.test(hash)) throw new AppError('internal', `hash: "${hash}" is not 64 hexadecimal digits`)
  const converted = new Map([...component.weights].filter(([name]) => name !== tokenTable))
  // What lies in memory, because the file has it in another order, goes into the graph itself.
  if ([...converted.values()].every((tensor) => tensor.dtype === dtype))
    return { weights: component.weights, [Symbol.dispose]() {} }

  const entries = inFileOrder(converted)
  const layout = layoutSafetensors(entries.map(([name, { shape }]) => ({ name, dtype, shape })))
  const folder = path.resolve(options.cacheDir, 'weights')
  const target = path.join(folder, `${hash}-${dtype}-v${WEIGHTS_VERSION}.safetensors`)
  const release = holdPrepared(target)
  try {
    if (!(await isUsable(target, layout))) {
      await makeFolder(folder)
      await withLock(target, options.scratchDir, async () => {
        // Whoever had the lock before us has probably made the file.
        if (await isUsable(target, layout)) return
        await makeRoom(component.name, target, layout.size, options.limitBytes, freeBytes)
        await write(component, hash, entries, layout, target, options)
      })
    }
    await evictPrepared(folder, options.limitBytes)
  } catch (error) {
    release()
    throw cacheFault(error, folder)
  }
  const weights = new Map(
    [...component.weights].map(([name, tensor]) => [
      name,
      name === tokenTable ? tensor : prepared(name, target, dtype, layout),
    ]),
  )
  return { weights, [Symbol.dispose]: release }
}

function prepared(name: string, file: string, dtype: 'F32' | 'F16', layout: SafetensorsLayout): StoredTensor {
  const { shape, offset, length } = layout.tensors.get(name)!
  return { dtype, shape, source: { file, offset, length } }
}

/** Whether the cached file is there and holds exactly this layout; marks it as used now. A damaged one is no error. */
async function isUsable(target: string, layout: SafetensorsLayout): Promise<boolean> {
  try {
    const { size, tensors } = await openSafetensors(target)
    if (size !== layout.size || tensors.size !== layout.tensors.size) return false
    for (const [name, wanted] of layout.tensors) {
      const found = tensors.get(name)
      if (found?.dtype !== wanted.dtype || found.offset !== wanted.offset || found.length !== wanted.length)
        return false
      if (found.shape.join() !== wanted.shape.join()) return false
    }
    const now = new Date()
    await utimes(target, now, now)
    return true
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined
    // ENOENT: evicted by another process since it was opened.
    if (code === 'model_not_found' || code === 'bad_file' || code === 'ENOENT') return false
    throw error
  }
}

/** Throws `disk_full` unless `neededBytes` are free, after evicting what the limit would not keep anyway. */
async function makeRoom(
  name: string,
  target: string,
  neededBytes: number,
  limitBytes: number,
  freeBytes: (folder: string) => Promise<number>,
): Promise<void> {
  const folder = path.dirname(target)
  // Absent, or damaged and of no use: its space is better used.
  await rm(target, { recursive: true, force: true })
  if ((await freeBytes(folder)) >= neededBytes) return
  await evictPrepared(folder, limitBytes - neededBytes)
  const free = await freeBytes(folder)
  if (free < neededBytes)
    throw new AppError(
      'disk_full',
      `cache: preparing the ${name} needs ${Math.ceil(neededBytes / 1e6)} MB, ${folder} has ${Math.floor(free / 1e6)} MB free`,
    )
}

async function freeDiskBytes(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(folder)
  return bavail * bsize
}

/** Convert everything into a file of the scratch folder, and rename it into place once it is safely on disk. */
async function write(
  component: Component<object>,
  hash: string,
  entries: readonly (readonly [string, StoredTensor])[],
  layout: SafetensorsLayout,
  target: string,
  options: PrepareOptions,
): Promise<void> {
  const { dtype, cacheDir, scratchDir, onProgress } = options
  const totalBytes = entries.reduce((sum, [, tensor]) => sum + storedLength(tensor), 0)
  const scratch = path.join(scratchDir, path.basename(target))
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
    {
      await using handle = await open(scratch, 'w')
      await writeSafetensors(
        handle,
        [...layout.tensors].map(([name, { shape }]) => ({ name, dtype, shape })),
        bytesOf,
      )
      await handle.datasync()
    }
    // Usually a few stat calls; without it a file replaced since it was hashed would be kept under the wrong name.
    if ((await componentHash(component, { cacheDir, scratchDir })) !== hash)
      throw new AppError('bad_file', `${component.name}: its files have changed since they were hashed; try again`)
    await rename(scratch, target)
    await syncFolder(path.dirname(target))
  } catch (error) {
    await rm(scratch, { force: true })
    throw error
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
async function* convert(pieces: AsyncIterable<TensorPiece>, dtype: 'F32' | 'F16'): AsyncGenerator<Converted> {
  // The largest growth is 16 to 32 bits. Two of them: one is written while the other is filled.
  const outputs = [new ArrayBuffer(2 * pieceBytes), new ArrayBuffer(2 * pieceBytes)] as const
  const between = dtype === 'F16' ? new Float32Array(pieceBytes / 2) : new Float32Array(0)
  let turn = 0
  for await (const { name, tensor, bytes, last } of pieces) {
    const output = outputs[turn++ % 2]
    const count = bytes.length / (tensor.dtype === 'F32' ? 4 : 2)
    const size = count * (dtype === 'F32' ? 4 : 2)
    const result = new Uint8Array(output, 0, size)
    if (tensor.dtype === dtype) result.set(bytes)
    else if (dtype === 'F32') toF32(tensor.dtype, bytes, new Float32Array(output, 0, count))
    else halve(name, toF32(tensor.dtype, bytes, between.subarray(0, count)), new Uint16Array(output, 0, count))
    yield { name, bytes: result, sourceBytes: bytes.length, last }
  }
}

function halve(name: string, values: Float32Array, out: Uint16Array): void {
  if (f32ToF16(values, out) === 0) return
  const largest = values.reduce((max, value) => Math.max(max, Math.abs(value)), 0)
  throw new AppError(
    'not_finite',
    `precision: weight "${name}" holds ±${largest}, fp16 ends at ±65504; this model needs fp32`,
  )
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

/** Makes a rename survive a power failure; Windows knows no such call for folders. */
async function syncFolder(folder: string): Promise<void> {
  if (process.platform === 'win32') return
  await using handle = await open(folder, 'r')
  await handle.sync()
}
