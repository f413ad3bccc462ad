// A folder for half-written files, one an engine process, beside the cache so that a finished file can be renamed into
// place. It is made by the parent, whose process id it bears, and outlives a killed child; the parent removes it. A child
// whose parent was killed removes it itself; what both of them left is swept by the next parent.
import { createHash, randomBytes } from 'node:crypto'
import { rmSync } from 'node:fs'
import { mkdir, readdir, rm, stat } from 'node:fs/promises'
import { hostname } from 'node:os'
import path from 'node:path'
import { cacheFault, makeFolder } from '#engine/weights/cache-folder.ts'
import { releaseLocks } from '#engine/weights/lock-notes.ts'

/** After this time without a change, what another machine or container left behind counts as abandoned. */
const foreignAgeMs = 24 * 60 * 60 * 1000

/** A process id means something only on its own machine; containers that share a cache differ in their host name. */
const host = createHash('sha256').update(hostname()).digest('hex').slice(0, 8)

/** The folders of this process: its id may be that of an earlier one, as the first process of a container has. */
const ours = new Set<string>()

/**
 * Make `<cacheDir>/scratch/<pid>-<host>-<random>` and remove the folders of processes that are gone. Throws
 * `cache_unwritable` or `disk_full`.
 */
export async function createScratch(cacheDir: string): Promise<string> {
  const parent = path.resolve(cacheDir, 'scratch')
  const name = `${process.pid}-${host}-${randomBytes(6).toString('hex')}`
  const folder = path.join(parent, name)
  try {
    await makeFolder(parent)
    await sweep(parent)
    await mkdir(folder)
  } catch (error) {
    throw cacheFault(error, parent)
  }
  ours.add(name)
  return folder
}

/**
 * Remove a folder made by {@link createScratch} with all that is in it, and the locks that its process held; one that is
 * gone already is fine.
 */
export async function removeScratch(folder: string): Promise<void> {
  await removeFolder(folder)
  ours.delete(path.basename(folder))
}

/** Like {@link removeScratch}, at once: for a process whose last act this is. */
export function removeScratchAtOnce(folder: string): void {
  releaseLocks(folder)
  rmSync(folder, { recursive: true, force: true, maxRetries: 3, retryDelay: 100 })
}

async function sweep(parent: string): Promise<void> {
  for (const name of await readdir(parent)) {
    if (await isAbandoned(parent, name)) await removeFolder(path.join(parent, name))
  }
}

async function removeFolder(folder: string): Promise<void> {
  releaseLocks(folder)
  await rm(folder, { recursive: true, force: true, maxRetries: 3, retryDelay: 100 })
}

async function isAbandoned(parent: string, name: string): Promise<boolean> {
  // A folder with another name is not ours to remove.
  const match = /^(\d+)-([0-9a-f]{8})-[0-9a-f]{12}$/.exec(name)
  if (!match) return false
  if (match[2] !== host) return Date.now() - (await lastChangeMs(path.join(parent, name))) > foreignAgeMs
  const pid = Number(match[1])
  return pid === process.pid ? !ours.has(name) : !isAlive(pid)
}

/** Signal 0 tests for existence; EPERM means that the process lives and is another user's. */
function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

async function lastChangeMs(folder: string): Promise<number> {
  try {
    const paths = [folder, ...(await readdir(folder)).map((name) => path.join(folder, name))]
    const times = await Promise.all(paths.map(async (file) => (await stat(file)).mtimeMs))
    return Math.max(...times)
  } catch (error) {
    // It vanished while we looked, so another process is at work on it.
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return Date.now()
    throw error
  }
}
