// The prepared files of a cache folder: which of them this process uses, and which go when there are too many.
import { readdir, rm, stat } from 'node:fs/promises'
import path from 'node:path'

/** A file touched this recently may be about to be mapped by another process, and stays whatever the limit is. */
const recentMs = 10_000

/** The files that this process was given and may have mapped, with the number of those who use each. */
const users = new Map<string, number>()

/** Keep a file from being evicted by this process until the function that is returned is called. */
export function holdPrepared(file: string): () => void {
  users.set(file, (users.get(file) ?? 0) + 1)
  let released = false
  return () => {
    if (released) return
    released = true
    const left = users.get(file)! - 1
    if (left === 0) users.delete(file)
    else users.set(file, left)
  }
}

/** Remove the least recently used prepared files until their total is at most `limitBytes`, except those in use. */
export async function evictPrepared(folder: string, limitBytes: number): Promise<void> {
  const files = await preparedFiles(folder)
  let total = files.reduce((sum, { size }) => sum + size, 0)
  for (const { file, size, mtimeMs } of files.sort((a, b) => a.mtimeMs - b.mtimeMs)) {
    if (total <= limitBytes) return
    if (users.has(file) || Date.now() - mtimeMs < recentMs) continue
    if (await removeUnlessMapped(file)) total -= size
  }
}

async function preparedFiles(folder: string): Promise<{ file: string; size: number; mtimeMs: number }[]> {
  const files: { file: string; size: number; mtimeMs: number }[] = []
  for (const name of await readdir(folder)) {
    if (!/^[0-9a-f]{64}-(?:(?:F32|F16|I8)-v\d+\.safetensors|openvino-v\d+\.blob)$/.test(name)) continue
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
