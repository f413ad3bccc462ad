// A lock between the processes that share a cache folder.
import { rm } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { lock } from 'proper-lockfile'
import { noteLock } from './lock-notes.ts'

/** A lock whose owner has not refreshed it for this long belongs to a process that died, and is taken over. */
const staleMs = 5_000
const refreshMs = 1_000
const retryMs = 100

// proper-lockfile's exit hook lets SIGXFSZ end the process unless somebody else listens. Node ignores that signal, so that
// a write beyond the file size limit fails with EFBIG, and it has to stay so.
process.on('SIGXFSZ', () => {})

/**
 * Run `task` while no other process or caller does so for the same `file`; the lock is the folder `<file>.lock`. Waits as
 * long as its owner lives. A process that is suspended beyond the lock's time can lose it, so `task` must stay harmless
 * when two run at once: it writes elsewhere and renames at the end. While it is held a note of it lies in `scratchDir`, see
 * lock-notes.ts.
 */
export async function withLock<T>(file: string, scratchDir: string, task: () => Promise<T>): Promise<T> {
  // A lock that was lost need not be given back; a lock that is lost while `task` runs is harmless, see above.
  const held = { lost: false }
  const onCompromised = (): void => {
    held.lost = true
  }
  const release = await acquire(file, onCompromised)
  let note: string | null = null
  try {
    note = await noteLock(scratchDir, lockOf(file))
    return await task()
  } finally {
    if (!held.lost) await release()
    if (note !== null) await rm(note, { force: true })
  }
}

function lockOf(file: string): string {
  return `${path.resolve(file)}.lock`
}

async function acquire(file: string, onCompromised: () => void): Promise<() => Promise<void>> {
  for (;;) {
    try {
      return await lock(file, {
        lockfilePath: lockOf(file),
        realpath: false,
        stale: staleMs,
        update: refreshMs,
        retries: 0,
        onCompromised,
      })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ELOCKED') throw error
      await sleep(retryMs)
    }
  }
}
