// A thread of the engine process that ends the process when its parent is gone. The main thread cannot watch for
// that: a running inference blocks it for seconds to minutes, and no event, not even the closed channel, is seen.

import { workerData } from 'node:worker_threads'
import { removeScratchAtOnce } from './scratch-folder.ts'

/** How often the parent is looked for, in milliseconds. */
const pollMs = 250

/** What the main thread tells: the parent can be gone before this thread runs. */
export type WatchOrder = { readonly parentPid: number; readonly scratchDir: string }

const { parentPid, scratchDir } = workerData as WatchOrder

function parentIsGone(): boolean {
  // An orphan is given to another parent at once, except on Windows, which keeps the dead one's number.
  if (process.platform !== 'win32') return process.ppid !== parentPid
  try {
    process.kill(parentPid, 0)
    return false
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH'
  }
}

setInterval(() => {
  if (!parentIsGone()) return
  try {
    // Nobody else will, until the next command that uses the same cache.
    removeScratchAtOnce(scratchDir)
  } finally {
    process.kill(process.pid, 'SIGKILL')
  }
}, pollMs)
