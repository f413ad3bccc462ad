// Files of weights in the cache folder, named by what they hold: made once, by whoever comes first, and mapped ever after.
import { open, rename, rm, statfs, utimes, type FileHandle } from 'node:fs/promises'
import path from 'node:path'
import type { SafetensorsLayout } from '#tensor/safetensors-writer.ts'
import { openSafetensors } from '#tensor/safetensors.ts'
import { AppError } from '../../errors.ts'
import { cacheFault, makeFolder } from './cache-folder.ts'
import { withLock } from './cache-lock.ts'
import type { GraphWeights, Weights } from './checkpoint.ts'
import { evictPrepared, holdPrepared } from './prepared-files.ts'

/** Part of every cached file's name: raised when the same checkpoint has to be prepared differently. */
export const WEIGHTS_VERSION = 1

/** Weights to compile a network from; dispose of them when the network is closed, so that their file may be evicted. */
export type PreparedWeights<W extends GraphWeights = Weights> = Disposable & { readonly weights: W }

/** What a file of the cache is to hold. */
export type CachedFile = {
  /** 64 hexadecimal digits that tell the contents. */
  readonly hash: string
  /** What the file's name says of its number format. */
  readonly dtype: 'F32' | 'F16' | 'I8'
  readonly layout: SafetensorsLayout
  /** What it is prepared from, for messages. */
  readonly name: string
}

export type CacheOptions = {
  /** Prepared files are in `<cacheDir>/weights`; made when missing. */
  readonly cacheDir: string
  /** An existing folder on the same file system for the half-written file. */
  readonly scratchDir: string
  /** Above this total of prepared files the least recently used go, except those that are in use in this process. */
  readonly limitBytes: number
}

/** The weights of a file of the cache whose tensors are all in its number format, see {@link cachedFile}. */
export async function cachedWeights(
  wanted: CachedFile & { readonly dtype: 'F32' | 'F16' },
  options: CacheOptions,
  write: (handle: FileHandle) => Promise<void>,
  freeBytes?: (folder: string) => Promise<number>,
): Promise<PreparedWeights> {
  const cached = await cachedFile(wanted, options, write, freeBytes)
  const weights: Weights = new Map(
    [...wanted.layout.tensors].map(([key, { shape, offset, length }]) => [
      key,
      { dtype: wanted.dtype, shape, source: { file: cached.file, offset, length } },
    ]),
  )
  return { weights, [Symbol.dispose]: () => cached[Symbol.dispose]() }
}

/**
 * The path of a file of the cache, which `write` makes where it is not there yet, while others wait. Map it soon:
 * another process may evict a file that was not used for ten seconds. `freeBytes` tells what the folder's disk has
 * left. Throws `disk_full`, `cache_unwritable` and whatever `write` throws.
 */
export async function cachedFile(
  { hash, dtype, layout, name }: CachedFile,
  { cacheDir, scratchDir, limitBytes }: CacheOptions,
  write: (handle: FileHandle) => Promise<void>,
  freeBytes: (folder: string) => Promise<number> = freeDiskBytes,
): Promise<Disposable & { readonly file: string }> {
  if (!/^[0-9a-f]{64}$/.test(hash)) throw new AppError('internal', `hash: "${hash}" is not 64 hexadecimal digits`)
  const folder = path.resolve(cacheDir, 'weights')
  const target = path.join(folder, `${hash}-${dtype}-v${WEIGHTS_VERSION}.safetensors`)
  const release = holdPrepared(target)
  try {
    if (!(await isUsable(target, layout))) {
      await makeFolder(folder)
      await withLock(target, scratchDir, async () => {
        // Whoever had the lock before us has probably made the file.
        if (await isUsable(target, layout)) return
        await makeRoom(name, target, layout.size, limitBytes, freeBytes)
        await writeAside(path.join(scratchDir, path.basename(target)), target, write)
      })
    }
    await evictPrepared(folder, limitBytes)
  } catch (error) {
    release()
    throw cacheFault(error, folder)
  }
  return { file: target, [Symbol.dispose]: release }
}

/** Write a file of the scratch folder, and rename it into place once it is safely on disk. */
async function writeAside(
  scratch: string,
  target: string,
  write: (handle: FileHandle) => Promise<void>,
): Promise<void> {
  try {
    {
      await using handle = await open(scratch, 'w')
      await write(handle)
      await handle.datasync()
    }
    await rename(scratch, target)
    await syncFolder(path.dirname(target))
  } catch (error) {
    await rm(scratch, { force: true })
    throw error
  }
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

/** Makes a rename survive a power failure; Windows knows no such call for folders. */
async function syncFolder(folder: string): Promise<void> {
  if (process.platform === 'win32') return
  await using handle = await open(folder, 'r')
  await handle.sync()
}
