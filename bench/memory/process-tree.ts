// Memory of a process and everything below it, from /proc (Linux): proportional set size, in which a page that several
// processes hold is shared out among them, mapped files included.
import { readdirSync, readFileSync } from 'node:fs'

/** Megabytes of 1e6 bytes. `privateMb` leaves mapped files out. */
export type MemoryUse = { readonly totalMb: number; readonly privateMb: number }

/** Watches the memory of a process tree until it is told to stop; then gives the moment of the greatest total. */
export function watchMemory(pid: number, intervalMs = 50): () => MemoryUse {
  let most: MemoryUse = { totalMb: 0, privateMb: 0 }
  const look = (): void => {
    const use = memoryOf(pid)
    if (use.totalMb > most.totalMb) most = use
  }
  look()
  const timer = setInterval(look, intervalMs)
  return () => {
    clearInterval(timer)
    look()
    return most
  }
}

/** What a process tree holds now. */
export function memoryOf(pid: number): MemoryUse {
  let [total, own] = [0, 0]
  for (const one of treeOf(pid)) {
    const text = readProc(`/proc/${one}/smaps_rollup`)
    total += Number(/^Pss:\s+(\d+)/m.exec(text)?.[1] ?? 0)
    own += Number(/^Pss_Anon:\s+(\d+)/m.exec(text)?.[1] ?? 0)
  }
  return { totalMb: (total * 1024) / 1e6, privateMb: (own * 1024) / 1e6 }
}

/** A process and all that descend from it. */
function treeOf(root: number): number[] {
  const children = new Map<number, number[]>()
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    // pid (name) state parent …; the name may hold anything.
    const parent = Number(/^.*\) \S (\d+)/s.exec(readProc(`/proc/${name}/stat`))?.[1] ?? 0)
    children.set(parent, [...(children.get(parent) ?? []), Number(name)])
  }
  const tree = [root]
  for (const pid of tree) tree.push(...(children.get(pid) ?? []))
  return tree
}

/** '' for a process that has just ended, or whose memory is another user's. */
function readProc(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    if (['ENOENT', 'ESRCH', 'EACCES'].includes((error as NodeJS.ErrnoException).code ?? '')) return ''
    throw error
  }
}
