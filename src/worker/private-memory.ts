// Memory that a process has for itself: mapped weights are shared with others through the page cache and do not count.
import { readFileSync } from 'node:fs'

/** Private memory of another process, in bytes; null where the system does not tell or the process has ended. */
export function privateMemory(pid: number): number | null {
  if (process.platform !== 'linux') return null
  try {
    const match = /^RssAnon:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))
    return match ? Number(match[1]) * 1024 : null
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return null
    throw error
  }
}

/** Private memory of this process, in bytes; all of its resident memory where the system does not tell them apart. */
export function ownMemory(): number {
  return privateMemory(process.pid) ?? process.memoryUsage.rss()
}
