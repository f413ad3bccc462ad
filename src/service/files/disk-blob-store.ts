// Blobs as files of one folder.
import { randomBytes } from 'node:crypto'
import { createReadStream, mkdirSync, renameSync, writeFileSync } from 'node:fs'
import { mkdir, opendir, readFile, rm, rmdir, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { AppError } from '../../errors.ts'
import { checkedKey, type Blob, type BlobStore } from './blob-store.ts'

/** Half-written files; no key begins with a dot. */
const scratchName = '.part'
const readAtOnceBytes = 1024 * 1024
/** What goes into the system's page cache sooner than a thread that does it has woken up. */
const writeAtOnceBytes = 1024 * 1024

/** Blobs in `folder`, which is made for its owner only; what an ended process left half written is removed. */
export async function openDiskBlobStore(folder: string): Promise<BlobStore> {
  const root = path.resolve(folder)
  const scratch = path.join(root, scratchName)
  await rm(scratch, { recursive: true, force: true })
  await mkdir(scratch, { recursive: true, mode: 0o700 })
  const fileOf = (key: string): string => path.join(root, checkedKey(key))
  const store = async (key: string, content: Uint8Array | AsyncIterable<Uint8Array>): Promise<void> => {
    const target = fileOf(key)
    const part = path.join(scratch, randomBytes(9).toString('hex'))
    try {
      const options = { flag: 'wx', mode: 0o600 } as const
      if (content instanceof Uint8Array && content.length <= writeAtOnceBytes) writeFileSync(part, content, options)
      else await writeFile(part, content, options)
      moveTo(part, target)
    } catch (error) {
      await rm(part, { force: true })
      throw storageError(root, error)
    }
  }
  return {
    put: store,
    write: store,
    get: async (key) => ifThere(readFile(fileOf(key))),
    read: async (key, start = 0) => ((await ifThere(stat(fileOf(key)))) ? piecesOf(fileOf(key), start) : null),
    placeOf: fileOf,
    delete: async (keys) => {
      const folders = new Set<string>()
      for (const key of keys) {
        const file = fileOf(key)
        await rm(file, { force: true })
        folders.add(path.dirname(file))
      }
      for (const emptied of folders) await removeEmpty(emptied, root)
    },
    list: (prefix) => listFiles(root, prefix),
  }
}

/** Opened when the first piece is asked for, so that nothing stays open of what nobody reads. */
async function* piecesOf(file: string, start: number): AsyncGenerator<Uint8Array> {
  for await (const piece of createReadStream(file, { start, highWaterMark: readAtOnceBytes })) yield piece as Uint8Array
}

/** Rename, into a folder that another call may be removing at this moment because it is empty. */
function moveTo(part: string, target: string): void {
  for (let attempt = 1; ; attempt++) {
    try {
      mkdirSync(path.dirname(target), { recursive: true, mode: 0o700 })
      renameSync(part, target)
      return
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      // Node says the latter where a folder vanished between its making and its being looked at.
      if ((code !== 'ENOENT' && code !== 'ENOTDIR') || attempt === 100) throw error
    }
  }
}

/** Remove a folder and those above it, below `root`, as far as they are empty. */
async function removeEmpty(folder: string, root: string): Promise<void> {
  for (let place = folder; place !== root; place = path.dirname(place)) {
    try {
      await rmdir(place)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'ENOTEMPTY' || code === 'EEXIST') return
      if (code !== 'ENOENT') throw error
    }
  }
}

async function* listFiles(root: string, prefix: string): AsyncGenerator<Blob> {
  // The deepest folder that all keys with this prefix lie in.
  const start = prefix.slice(0, prefix.lastIndexOf('/') + 1)
  if (start !== '') checkedKey(start.slice(0, -1))
  const pending = [start]
  for (let folder = pending.pop(); folder !== undefined; folder = pending.pop()) {
    const entries = await ifThere(opendir(path.join(root, folder)))
    if (!entries) continue
    for await (const entry of entries) {
      const key = folder + entry.name
      const related = key.startsWith(prefix) || prefix.startsWith(`${key}/`)
      if (!related || key === scratchName) continue
      if (entry.isDirectory()) pending.push(`${key}/`)
      else {
        const found = await ifThere(stat(path.join(root, key)))
        if (found && key.startsWith(prefix)) yield { key, sizeBytes: found.size, modifiedAt: found.mtime }
      }
    }
  }
}

/** What `pending` gives, or null when the file or folder is not there. */
async function ifThere<T>(pending: Promise<T>): Promise<T | null> {
  try {
    return await pending
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw error
  }
}

function storageError(root: string, error: unknown): unknown {
  // What was wrong with the bytes that came.
  if (error instanceof AppError) return error
  const { code } = error as NodeJS.ErrnoException
  if (code === 'ENOSPC' || code === 'EDQUOT')
    return new AppError('disk_full', `file store ${root}: no space is left`, { cause: error })
  if (code === undefined) return error
  return new AppError('storage_unavailable', `file store ${root}: cannot be written (${code})`, { cause: error })
}
