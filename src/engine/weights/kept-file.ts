// Files that take long to make and are kept in the cache folder: made once, by whoever comes first, and mapped ever after.
import { open, rename, rm, statfs, utimes } from 'node:fs/promises'
import path from 'node:path'
import { AppError } from '../../errors.ts'
import { cacheFault, makeFolder } from './cache-folder.ts'
import { withLock } from './cache-lock.ts'
import { evictPrepared, holdPrepared } from './prepared-files.ts'

export type CacheOptions = {
  /** Prepared files are in `<cacheDir>/weights`; made when missing. */
  readonly cacheDir: string
  /** An existing folder on the same file system for the half-written file. */
  readonly scratchDir: string
  /** Above this total of prepared files the least recently used go, except those that are in use in this process. */
  readonly limitBytes: number
}

/** What is to be kept. */
export type KeptFile = {
  /** Tells the contents; `prepared-files.ts` knows its form. */
  readonly fileName: string
  /** What it will take, about. */
  readonly sizeBytes: number
  /** For messages, such as "preparing the unet". */
  readonly purpose: string
  /** Whether a file is there and whole; a damaged one is made anew. */
  readonly isWhole: (file: string) => Promise<boolean>
}

/**
 * The path of a file of the cache, which `write` makes at the path that it is given where there is none yet, while others
 * wait. Map it soon: another process may evict a file that was not used for ten seconds. `freeBytes` tells what the
 * folder's disk has left. Throws `disk_full`, `cache_unwritable` and whatever `write` throws.
 */
export async function keptFile(
  { fileName, isWhole, purpose, sizeBytes }: KeptFile,
  { cacheDir, limitBytes, scratchDir }: CacheOptions,
  write: (scratch: string) => Promise<void>,
  freeBytes: (folder: string) => Promise<number> = freeDiskBytes,
): Promise<Disposable & { readonly file: string }> {
  const folder = path.resolve(cacheDir, 'weights')
  const target = path.join(folder, fileName)
  const release = holdPrepared(target)
  const isUsable = async (): Promise<boolean> => (await isWhole(target)) && (await touch(target))
  try {
    if (!(await isUsable())) {
      await makeFolder(folder)
      await withLock(target, scratchDir, async () => {
        // Whoever had the lock before us has probably made the file.
        if (await isUsable()) return
        await makeRoom(purpose, target, sizeBytes, limitBytes, freeBytes)
        await writeAside(path.join(scratchDir, fileName), target, write)
      })
    }
    await evictPrepared(folder, limitBytes)
  } catch (error) {
    release()
    throw cacheFault(error, folder)
  }
  return { file: target, [Symbol.dispose]: release }
}

/** Mark a file as used now; false when another process has evicted it. */
async function touch(file: string): Promise<boolean> {
  const now = new Date()
  try {
    await utimes(file, now, now)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
    throw error
  }
}

/** Write a file of the scratch folder, and rename it into place once it is safely on disk. */
async function writeAside(scratch: string, target: string, write: (scratch: string) => Promise<void>): Promise<void> {
  try {
    await write(scratch)
    await rename(scratch, target)
    await syncFolder(path.dirname(target))
  } catch (error) {
    await rm(scratch, { force: true })
    throw error
  }
}

/** Throws `disk_full` unless `neededBytes` are free, after evicting what the limit would not keep anyway. */
async function makeRoom(
  purpose: string,
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
      `cache: ${purpose} needs ${Math.ceil(neededBytes / 1e6)} MB, ${folder} has ${Math.floor(free / 1e6)} MB free`,
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
