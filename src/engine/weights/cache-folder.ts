// What all users of the cache folder share: one meaning for each error of its disk, and a lock between processes.
import { setTimeout as sleep } from 'node:timers/promises'
import { lock } from 'proper-lockfile'
import { AppError } from '../../errors.ts'

/** A lock whose owner has not refreshed it for this long belongs to a process that died, and is taken over. */
const staleMs = 5_000
const refreshMs = 1_000
const retryMs = 100

const fullCodes = new Set(['ENOSPC', 'EDQUOT', 'EFBIG'])
const unwritableCodes = new Set([
  'EACCES',
  'EPERM',
  'EROFS',
  'ENOTDIR',
  'EEXIST',
  'ENOENT',
  'ELOOP',
  'ENAMETOOLONG',
  'EISDIR',
])

/** The error that a user should see for `error`, met while writing under `folder`; what is no disk error stays as it is. */
export function cacheFault(error: unknown, folder: string): unknown {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  if (error instanceof AppError || typeof code !== 'string') return error
  if (fullCodes.has(code))
    return new AppError('disk_full', `cache: no space left in ${folder} (${code})`, { cause: error })
  if (unwritableCodes.has(code))
    return new AppError('cache_unwritable', `cache: cannot write in ${folder} (${code}); choose another folder`, {
      cause: error,
    })
  return error
}

/**
 * Run `task` while no other process or caller does so for the same `file`; the lock is the folder `<file>.lock`. Waits as
 * long as its owner lives. A process that is suspended beyond the lock's time can lose it, so `task` must stay harmless
 * when two run at once: it writes elsewhere and renames at the end.
 */
export async function withLock<T>(file: string, task: () => Promise<T>): Promise<T> {
  // A lock that was lost need not be given back; a lock that is lost while `task` runs is harmless, see above.
  const held = { lost: false }
  const onCompromised = (): void => {
    held.lost = true
  }
  const release = await acquire(file, onCompromised)
  try {
    return await task()
  } finally {
    if (!held.lost) await release()
  }
}

async function acquire(file: string, onCompromised: () => void): Promise<() => Promise<void>> {
  for (;;) {
    try {
      return await lock(file, { realpath: false, stale: staleMs, update: refreshMs, retries: 0, onCompromised })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ELOCKED') throw error
      await sleep(retryMs)
    }
  }
}
