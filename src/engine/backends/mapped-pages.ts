// Pages of mapped weights, given back to the system. A backend that packs weights into memory of its own reads each page
// of their files once and has no use for it afterwards, yet every page that was read counts as the process's until memory
// is short. Giving it back costs nothing: the file is still mapped, and a page that is wanted again is read again.
import { readFileSync } from 'node:fs'
import { realpath } from 'node:fs/promises'
import koffi from 'koffi'

/** How often pages are given back while weights are read: some hundred megabytes are read meanwhile. */
const intervalMs = 50

/** MADV_DONTNEED of Linux: a private mapping of a file reads its pages from the file again. */
const dontNeed = 4

type Advise = (address: bigint, length: bigint, advice: number) => number

let advise: Advise | null = null

/** Do some work while the pages of `files` that it reads through mappings are given back, and all of them at its end. Linux only. */
export async function releasingPages<T>(files: Iterable<string>, work: () => Promise<T>): Promise<T> {
  if (process.platform !== 'linux') return await work()
  // Mappings are listed by the names that symbolic links lead to.
  const real = new Set(await Promise.all([...files].map((file) => realpath(file))))
  return await whileReleasing(() => void releaseMappedPages(real), work)
}

/** The same for one mapping whose place is known, which spares the list of all of them. */
export async function releasingMapping<T>(
  { address, length }: { readonly address: bigint; readonly length: number },
  work: () => Promise<T>,
): Promise<T> {
  if (process.platform !== 'linux') return await work()
  return await whileReleasing(() => void giveBack(address, BigInt(length)), work)
}

async function whileReleasing<T>(release: () => void, work: () => Promise<T>): Promise<T> {
  const timer = setInterval(release, intervalMs)
  try {
    return await work()
  } finally {
    clearInterval(timer)
    release()
  }
}

/** Give back what this process holds of files that it has mapped without a right to write, and how many bytes of address space those are. */
export function releaseMappedPages(files: ReadonlySet<string>): number {
  let total = 0
  for (const line of readFileSync('/proc/self/maps', 'utf8').split('\n')) {
    // address-address rights offset device inode path
    const match = /^([0-9a-f]+)-([0-9a-f]+) r--[ps] \S+ \S+ \S+ +(\/.*?)(?: \(deleted\))?$/.exec(line)
    if (!match || !files.has(match[3])) continue
    const [start, end] = [BigInt(`0x${match[1]}`), BigInt(`0x${match[2]}`)]
    // It fails where another thread has just unmapped the file: there is nothing left to give back.
    if (giveBack(start, end - start)) total += Number(end - start)
  }
  return total
}

function giveBack(address: bigint, length: bigint): boolean {
  advise ??= koffi.load(null).func('int madvise(uintptr_t address, size_t length, int advice)') as Advise
  return advise(address, length, dontNeed) === 0
}
