// Large blocks of memory, which belong to the system again as soon as they are freed. glibc keeps what was freed in its heap
// once blocks of that size have been freed before, up to 32 MB, and a few small ones in between hold all of it: decoding a
// picture in strips took 0.6 GB more than it had in use.
import koffi from 'koffi'

/** M_MMAP_THRESHOLD of glibc: blocks from this size on are mapped one by one. Setting it ends glibc's own choosing. */
const mapThreshold = -3
const largeBytes = 2 << 20

type SetOption = (option: number, value: number) => number

/** From now on large blocks of this process are given back when they are freed. With another C library than glibc nothing changes. */
export function returnLargeBlocks(): void {
  if (process.platform !== 'linux') return
  let setOption: SetOption
  try {
    setOption = koffi.load(null).func('int mallopt(int option, int value)') as SetOption
  } catch {
    // musl has no such function; it maps large blocks anyway.
    return
  }
  setOption(mapThreshold, largeBytes)
}
