// A thread of the engine process that ends the process when its parent is gone. The main thread cannot watch for
// that: a running inference blocks it for seconds to minutes, and no event, not even the closed channel, is seen.

import { workerData } from 'node:worker_threads'

/** How often the parent is looked for, in milliseconds. */
const pollMs = 250

// Told by the main thread: the parent can be gone before this thread runs.
const parentPid = workerData as number

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
  if (parentIsGone()) process.kill(process.pid, 'SIGKILL')
}, pollMs)
