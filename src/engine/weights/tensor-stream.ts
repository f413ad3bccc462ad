import { open, type FileHandle } from 'node:fs/promises'
import { AppError } from '../../errors.ts'
import type { StoredTensor, Weights } from './checkpoint.ts'

/** A piece of one tensor's stored bytes, in order; `bytes` is valid until the next piece is asked for. */
export type TensorPiece = {
  readonly name: string
  readonly tensor: StoredTensor
  readonly bytes: Uint8Array
  /** Whether the tensor ends with this piece. */
  readonly last: boolean
}

type Read = { readonly name: string; readonly tensor: StoredTensor; readonly start: number; readonly length: number }

/** The entries of `weights` as they lie on disk, so that reading them in this order never seeks back; in-memory last. */
export function inFileOrder(weights: Weights): [string, StoredTensor][] {
  return [...weights].sort(([nameA, a], [nameB, b]) => {
    if ('file' in a.source && 'file' in b.source) {
      if (a.source.file !== b.source.file) return a.source.file < b.source.file ? -1 : 1
      if (a.source.offset !== b.source.offset) return a.source.offset - b.source.offset
    } else if ('file' in a.source !== 'file' in b.source) return 'file' in a.source ? -1 : 1
    return nameA < nameB ? -1 : 1
  })
}

/** Bytes that a tensor occupies where it is stored. */
export function storedLength(tensor: StoredTensor): number {
  return 'file' in tensor.source ? tensor.source.length : tensor.source.bytes.length
}

/**
 * The stored bytes of `entries` in the given order, in pieces of at most `pieceBytes` (a multiple of 8, so that elements
 * stay whole). The next piece is read while the caller works on the current one. A file that ends early throws `bad_file`.
 */
export async function* streamTensors(
  entries: readonly (readonly [string, StoredTensor])[],
  pieceBytes: number,
): AsyncGenerator<TensorPiece> {
  const handles = new Map<string, FileHandle>()
  const buffers = [new Uint8Array(pieceBytes), new Uint8Array(pieceBytes)] as const
  let pending: Promise<Uint8Array> | undefined
  try {
    const reads = entries.flatMap(([name, tensor]) => piecesOf(name, tensor, pieceBytes))
    const begin = (index: number): Promise<Uint8Array> => {
      const started = load(reads[index], buffers[index % 2], handles)
      // Awaited at the next turn of the loop; until then a failure must not count as unhandled.
      started.catch(() => undefined)
      return started
    }
    if (reads.length > 0) pending = begin(0)
    for (const [index, { name, tensor, start, length }] of reads.entries()) {
      const bytes = await pending!
      pending = index + 1 < reads.length ? begin(index + 1) : undefined
      yield { name, tensor, bytes, last: start + length === storedLength(tensor) }
    }
  } finally {
    await Promise.allSettled([pending])
    for (const handle of handles.values()) await handle.close()
  }
}

function piecesOf(name: string, tensor: StoredTensor, pieceBytes: number): Read[] {
  const total = storedLength(tensor)
  const reads: Read[] = []
  for (let start = 0; start < total; start += pieceBytes)
    reads.push({ name, tensor, start, length: Math.min(pieceBytes, total - start) })
  // An empty tensor is one empty piece: it has a hash and a place in a file like any other.
  return reads.length > 0 ? reads : [{ name, tensor, start: 0, length: 0 }]
}

async function load(read: Read, buffer: Uint8Array, handles: Map<string, FileHandle>): Promise<Uint8Array> {
  const { source } = read.tensor
  const target = buffer.subarray(0, read.length)
  if ('bytes' in source) {
    // Copied, so that what is handed out is aligned like everything else.
    target.set(source.bytes.subarray(read.start, read.start + read.length))
    return target
  }
  try {
    await readInto(target, source.file, source.offset + read.start, read.name, handles)
  } catch (error) {
    // The caller may be writing too: an error of the source must not look like one of the target.
    if (error instanceof AppError) throw error
    const { code } = error as NodeJS.ErrnoException
    throw new AppError('bad_file', `${source.file}: cannot be read (${code})`, { cause: error })
  }
  return target
}

async function readInto(
  target: Uint8Array,
  file: string,
  offset: number,
  name: string,
  handles: Map<string, FileHandle>,
): Promise<void> {
  let handle = handles.get(file)
  if (!handle) {
    handle = await open(file)
    handles.set(file, handle)
  }
  for (let done = 0; done < target.length;) {
    const { bytesRead } = await handle.read(target, done, target.length - done, offset + done)
    if (bytesRead === 0)
      throw new AppError('bad_file', `${file}: ends at byte ${offset + done}, inside tensor "${name}"`)
    done += bytesRead
  }
}
