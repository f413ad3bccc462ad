// A file as memory: pages are read when they are touched, and the system may drop them again at any time.
import { closeSync, fstatSync, openSync } from 'node:fs'
import koffi from 'koffi'
import { AppError } from '../../errors.ts'

/** Bytes of a file at an address of this process, until it is disposed of. */
export type MappedFile = Disposable & { readonly address: bigint; readonly length: number }

type Map = (
  address: bigint,
  length: bigint,
  protection: number,
  flags: number,
  file: number,
  offset: bigint,
) => number | bigint
type Unmap = (address: bigint, length: bigint) => number

/** PROT_READ and MAP_PRIVATE of Linux and macOS. */
const readable = 1
const ownCopy = 2
/** MAP_FAILED: −1 as an address. */
const failed = 2n ** 64n - 1n

let functions: { readonly map: Map; readonly unmap: Unmap } | null = null

/** Whether this system's way of mapping files is known here. */
export const canMapFiles: boolean = process.platform !== 'win32'

/** Map a file for reading. Throws `internal` on Windows, and what opening the file throws. */
export function mapFile(path: string): MappedFile {
  if (!canMapFiles) throw new AppError('internal', `${path}: files are not mapped on ${process.platform}`)
  functions ??= load()
  const { map, unmap } = functions
  const file = openSync(path, 'r')
  try {
    const length = fstatSync(file).size
    const address = BigInt(map(0n, BigInt(length), readable, ownCopy, file, 0n))
    if (address === failed) throw new AppError('out_of_memory', `${path}: its ${length} bytes cannot be mapped`)
    return {
      address,
      length,
      [Symbol.dispose]() {
        unmap(address, BigInt(length))
      },
    }
  } finally {
    closeSync(file)
  }
}

function load(): { readonly map: Map; readonly unmap: Unmap } {
  const system = koffi.load(null)
  return {
    map: system.func(
      'uintptr_t mmap(uintptr_t address, size_t length, int protection, int flags, int file, int64_t offset)',
    ) as Map,
    unmap: system.func('int munmap(uintptr_t address, size_t length)') as Unmap,
  }
}
