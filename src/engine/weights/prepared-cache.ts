// Weights in the format that the graphs compute in. A checkpoint that has it already is read where it lies; any other is
// converted once into the cache folder, as one safetensors file a component, which onnxruntime then maps from disk.
import { open, readdir, rename, rm, stat, statfs, utimes } from 'node:fs/promises'
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
import { inFileOrder, storedLength, streamTensors, type TensorPiece } from './tensor-stream.ts'

/** Part of every cached file's name: raised when the same checkpoint has to be prepared differently. */
export const WEIGHTS_VERSION = 1

/** The table of token embeddings: its rows are looked up from the original file, so that it is never converted. */
export const tokenTable = 'text_model.embeddings.token_embedding.weight'

/** Stored bytes read at once; 8 MiB of fp16 become 16 MiB of fp32. */
const pieceBytes = 8 * 1024 * 1024
/** A file touched this recently may be about to be mapped by another process, and stays whatever the limit is. */
const recentMs = 10_000

/** The files that this process was given, which may be mapped. */
const inUse = new Set<string>()

export type PrepareOptions = {
  readonly dtype: 'F32' | 'F16'
  /** Prepared files are in `<cacheDir>/weights`; made when missing. */
  readonly cacheDir: string
  /** An existing folder on the same file system for the half-written file. */
  readonly scratchDir: string
  /** Above this total of prepared files the least recently used go, except those that this process uses. */
  readonly limitBytes: number
  /** Called after each piece that was converted, with bytes of the source; never when nothing is to be done. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void
}

/**
 * The component's weights with every tensor in a file and in `dtype`, except the table of token embeddings, which stays as
 * it is stored. `hash` is the component's content hash (hash.ts), remembered in the same `cacheDir`. When that is so already, they are returned as they are; otherwise
 * they point into a file of the cache, made by the first caller while others wait. Map them soon: another process may
 * evict a file that was not used for ten seconds. Throws `disk_full`, `cache_unwritable`, `bad_file` when the source is
 * cut off or has changed, and `not_finite` when a weight is too large for fp16.
 */
export async function prepareWeights(
  component: Component<object>,
  hash: string,
  options: PrepareOptions,
): Promise<Weights> {
  const { dtype } = options
  if (!/^[0-9a-f]{64}$/.test(hash)) throw new AppError('internal', `hash: "${hash}" is not 64 hexadecimal digits`)
  const converted = new Map([...component.weights].filter(([name]) => name !== tokenTable))
  if ([...converted.values()].every((tensor) => tensor.dtype === dtype && 'file' in tensor.source))
    return component.weights

  const entries = inFileOrder(converted)
  const layout = layoutSafetensors(entries.map(([name, { shape }]) => ({ name, dtype, shape })))
  const folder = path.resolve(options.cacheDir, 'weights')
  const target = path.join(folder, `${hash}-${dtype}-v${WEIGHTS_VERSION}.safetensors`)
  try {
    if (!(await isUsable(target, layout))) {
      await makeFolder(folder)
      await withLock(target, async () => {
        // Whoever had the lock before us has probably made the file.
        if (await isUsable(target, layout)) return
        await makeRoom(component.name, folder, target, layout.size, options.limitBytes)
        await write(component, hash, entries, layout, target, options)
      })
    }
    inUse.add(target)
    await evict(folder, options.limitBytes)
  } catch (error) {
    throw cacheFault(error, folder)
  }
  return new Map(
    [...component.weights].map(([name, tensor]) => [
      name,
      name === tokenTable ? tensor : prepared(name, target, dtype, layout),
    ]),
  )
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
  folder: string,
  target: string,
  neededBytes: number,
  limitBytes: number,
): Promise<void> {
  // Absent, or damaged and of no use: its space is better used.
  await rm(target, { recursive: true, force: true })
  if ((await freeBytes(folder)) >= neededBytes) return
  await evict(folder, limitBytes - neededBytes)
  const free = await freeBytes(folder)
  if (free < neededBytes)
    throw new AppError('disk_full', `cache: preparing ${name} needs ${neededBytes} bytes, ${folder} has ${free} free`)
}

async function freeBytes(folder: string): Promise<number> {
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
    if ((await componentHash(component, { cacheDir })) !== hash)
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

/** Remove the least recently used prepared files until their total is at most `limitBytes`. */
async function evict(folder: string, limitBytes: number): Promise<void> {
  const files = await preparedFiles(folder)
  let total = files.reduce((sum, { size }) => sum + size, 0)
  for (const { file, size, mtimeMs } of files.sort((a, b) => a.mtimeMs - b.mtimeMs)) {
    if (total <= limitBytes) return
    if (inUse.has(file) || Date.now() - mtimeMs < recentMs) continue
    if (await removeUnlessMapped(file)) total -= size
  }
}

async function preparedFiles(folder: string): Promise<{ file: string; size: number; mtimeMs: number }[]> {
  const files: { file: string; size: number; mtimeMs: number }[] = []
  for (const name of await readdir(folder)) {
    if (!/^[0-9a-f]{64}-F(?:32|16)-v\d+\.safetensors$/.test(name)) continue
    const file = path.join(folder, name)
    try {
      const { size, mtimeMs } = await stat(file)
      files.push({ file, size, mtimeMs })
    } catch (error) {
      // Evicted by another process at the same time.
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    }
  }
  return files
}

/** POSIX lets a mapped file go and keeps its bytes for those who map it; Windows refuses, and then it stays. */
async function removeUnlessMapped(file: string): Promise<boolean> {
  try {
    await rm(file, { force: true })
    return true
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (process.platform === 'win32' && (code === 'EPERM' || code === 'EBUSY' || code === 'EACCES')) return false
    throw error
  }
}
