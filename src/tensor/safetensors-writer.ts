// Writing safetensors as a stream: the header is known from names, formats and shapes, the bytes follow one tensor
// after the other, so that a file of any size needs the memory of one chunk.
import { open, rm, type FileHandle } from 'node:fs/promises'
import { AppError } from '../errors.ts'
import { byteLength, type DType } from './dtype.ts'
import type { SafetensorsEntry } from './safetensors.ts'

/** One tensor to write. */
export type NewTensor = { readonly name: string; readonly dtype: DType; readonly shape: readonly number[] }

/** Where everything will lie in the new file. */
export type SafetensorsLayout = {
  /** Length prefix, JSON and padding. */
  readonly header: Uint8Array
  /** Bytes of the whole file. */
  readonly size: number
  readonly tensors: ReadonlyMap<string, SafetensorsEntry>
}

/** The layout of a file that holds `entries` in their order; the data start at a multiple of 8. */
export function layoutSafetensors(
  entries: readonly NewTensor[],
  metadata: Readonly<Record<string, string>> = {},
): SafetensorsLayout {
  const described: Record<string, unknown> = Object.create(null)
  if (Object.keys(metadata).length > 0) described['__metadata__'] = metadata
  let end = 0
  const lengths = entries.map(({ name, dtype, shape }) => {
    const length = byteLength(dtype, shape)
    if (length === null || name in described || name === '__metadata__')
      throw new AppError('internal', `safetensors: cannot lay out tensor "${name}" ${dtype} [${shape.join(', ')}]`)
    described[name] = { dtype, shape, data_offsets: [end, end + length] }
    end += length
    return length
  })
  const json = Buffer.from(JSON.stringify(described))
  const header = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, ' ')
  header.writeBigUInt64LE(BigInt(header.length - 8))
  json.copy(header, 8)
  let offset = header.length
  const tensors = new Map<string, SafetensorsEntry>()
  for (const [index, { name, dtype, shape }] of entries.entries()) {
    tensors.set(name, { dtype, shape, offset, length: lengths[index] })
    offset += lengths[index]
  }
  return { header, size: offset, tensors }
}

/**
 * Write a safetensors file to `target`, a path or a handle open for writing at its start. `bytesOf` gives the bytes
 * of each tensor in any number of chunks, which may be reused after the next one is asked for. Errors of the file
 * system pass through; a path that could not be written whole is removed.
 */
export async function writeSafetensors(
  target: string | FileHandle,
  entries: readonly NewTensor[],
  bytesOf: (entry: NewTensor, index: number) => AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<SafetensorsLayout> {
  const layout = layoutSafetensors(entries, metadata)
  if (typeof target !== 'string') {
    await writeAll(target, layout, entries, bytesOf)
    return layout
  }
  await using handle = await open(target, 'w')
  try {
    await writeAll(handle, layout, entries, bytesOf)
  } catch (error) {
    await rm(target, { force: true })
    throw error
  }
  return layout
}

async function writeAll(
  handle: FileHandle,
  layout: SafetensorsLayout,
  entries: readonly NewTensor[],
  bytesOf: (entry: NewTensor, index: number) => AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
): Promise<void> {
  let position = await writeFully(handle, layout.header, 0)
  for (const [index, entry] of entries.entries()) {
    const { offset, length } = layout.tensors.get(entry.name)!
    for await (const chunk of bytesOf(entry, index)) position = await writeFully(handle, chunk, position)
    if (position !== offset + length)
      throw new AppError(
        'internal',
        `safetensors: tensor "${entry.name}" was given ${position - offset} bytes and has ${length}`,
      )
  }
}

/** Write all of `bytes` at `position`; returns the position behind them. */
async function writeFully(handle: FileHandle, bytes: Uint8Array, position: number): Promise<number> {
  let done = 0
  while (done < bytes.byteLength) {
    const { bytesWritten } = await handle.write(bytes, done, bytes.byteLength - done, position + done)
    done += bytesWritten
  }
  return position + done
}
