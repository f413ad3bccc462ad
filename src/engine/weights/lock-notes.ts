// Notes of the locks that a process holds, in its scratch folder: whoever removes that folder after the process was killed
// gives them back, so that the next process need not wait until they are stale.
import { randomBytes } from 'node:crypto'
import { readdirSync, readFileSync, rmdirSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import path from 'node:path'

const ending = '.held'

/** Write down in `scratchDir` that the lock, an empty folder, is ours; gives the note's path. */
export async function noteLock(scratchDir: string, lock: string): Promise<string> {
  const note = path.join(scratchDir, `${randomBytes(6).toString('hex')}${ending}`)
  // Relative: another container may see the same disk elsewhere.
  await writeFile(note, path.relative(scratchDir, lock))
  return note
}

/** Give back the locks that the notes in the scratch folder of a process that is gone, or about to go, tell of. */
export function releaseLocks(scratchDir: string): void {
  for (const name of namesIn(scratchDir)) {
    if (!name.endsWith(ending)) continue
    try {
      const lock = path.resolve(scratchDir, readFileSync(path.join(scratchDir, name), 'utf8'))
      if (lock.endsWith('.lock')) rmdirSync(lock)
    } catch (error) {
      // The process had given it back, or another one is cleaning up too.
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    }
  }
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}
