// The safetensors format: 8 bytes of header length, a JSON header, then the tensors' bytes without gaps. Reading
// trusts nothing: a header that passes here describes ranges inside the file, each byte in exactly one tensor.
import { open, stat, type FileHandle } from 'node:fs/promises'
import { AppError } from '../errors.ts'
import { byteLength, isDType, toF32, type DType, type FloatDType } from './dtype.ts'
import { readHeaderJson } from './safetensors-header.ts'
import { tensor, type Tensor } from './tensor.ts'

/** One tensor of an opened file; `offset` counts from the start of the file. */
export type SafetensorsEntry = {
  readonly dtype: DType
  readonly shape: readonly number[]
  readonly offset: number
  readonly length: number
}

/** The header of a safetensors file; no handle stays open. */
export type SafetensorsFile = {
  readonly path: string
  /** Bytes of the whole file. */
  readonly size: number
  readonly metadata: Readonly<Record<string, string>>
  /** In the order of their bytes. */
  readonly tensors: ReadonlyMap<string, SafetensorsEntry>
}

/** A tensor's values, wherever they lie. */
export type TensorSource = {
  readonly dtype: FloatDType
  readonly shape: readonly number[]
  readonly source:
    | { readonly file: string; readonly offset: number; readonly length: number }
    | { readonly bytes: Uint8Array }
}

const maxHeaderBytes = 16 * 1024 * 1024
const maxTensors = 20_000
const maxRank = 8

/**
 * Read and check the header of the safetensors file at `path`; the tensors' bytes are not touched.
 * Throws `model_not_found` when there is no such file and `bad_file` for everything that is wrong with it.
 */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  const info = await naming(path, () => stat(path))
  // Asked before opening: opening a pipe would wait for ever.
  if (!info.isFile()) throw bad(path, 'is not a regular file')
  await using handle = await naming(path, () => open(path, 'r'))
  const size = info.size
  if (size < 8) throw bad(path, `has ${size} bytes, and a safetensors file has at least 8`)
  const prefix = await readFully(handle, path, 0, 8)
  const headerBytes = Number(new DataView(prefix.buffer, prefix.byteOffset).getBigUint64(0, true))
  if (headerBytes > maxHeaderBytes || headerBytes < 2 || headerBytes + 8 > size) {
    const found = foreignFormat(prefix)
    if (found !== null) throw bad(path, `is ${found}, not safetensors`)
    if (headerBytes > maxHeaderBytes)
      throw bad(path, `is not safetensors: its header would have ${headerBytes} bytes, more than ${maxHeaderBytes}`)
    throw bad(path, `is cut short or not safetensors: a header of ${headerBytes} bytes in a file of ${size} bytes`)
  }
  const json = readHeaderJson(await readFully(handle, path, 8, headerBytes), (problem) => bad(path, problem))
  const { metadata, tensors } = checkHeader(path, json, 8 + headerBytes, size)
  return { path, size, metadata, tensors }
}

/** Read `length` bytes at `offset` of a file. Throws `bad_file` when the file ends before them. */
export async function readRange(path: string, offset: number, length: number): Promise<Uint8Array> {
  await using handle = await naming(path, () => open(path, 'r'))
  return await readFully(handle, path, offset, length)
}

/** The stored bytes of a tensor. */
export async function readTensorBytes(stored: Pick<TensorSource, 'source'>): Promise<Uint8Array> {
  const { source } = stored
  return 'bytes' in source ? source.bytes : await readRange(source.file, source.offset, source.length)
}

/** A stored tensor as fp32. */
export async function readTensorF32(stored: TensorSource): Promise<Tensor> {
  return tensor(stored.shape, toF32(stored.dtype, await readTensorBytes(stored)))
}

/** Fill `length` bytes from `offset` on, however many reads that takes. */
async function readFully(handle: FileHandle, path: string, offset: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length)
  let done = 0
  while (done < length) {
    // One read of Linux gives 2 GiB at most.
    const wanted = Math.min(length - done, 0x4000_0000)
    const { bytesRead } = await handle.read(bytes, done, wanted, offset + done)
    if (bytesRead === 0)
      throw bad(path, `ends at byte ${offset + done}, inside the range ${offset}..${offset + length}`)
    done += bytesRead
  }
  return bytes
}

function checkHeader(
  path: string,
  header: Record<string, unknown>,
  dataStart: number,
  size: number,
): Pick<SafetensorsFile, 'metadata' | 'tensors'> {
  const { __metadata__: metadata = {}, ...named } = header
  if (!isObject(metadata) || Object.values(metadata).some((value) => typeof value !== 'string'))
    throw bad(path, 'has a __metadata__ that is not an object of strings')
  const names = Object.keys(named)
  if (names.length > maxTensors) throw bad(path, `has ${names.length} tensors, more than ${maxTensors}`)
  const entries = names
    .map((name) => [name, checkEntry(path, name, named[name], dataStart)] as const)
    .sort(([, a], [, b]) => a.offset - b.offset || a.length - b.length)
  let end = dataStart
  for (const [name, entry] of entries) {
    if (entry.offset !== end) {
      const kind = entry.offset > end ? 'a hole before' : 'an overlap at'
      throw bad(path, `has ${kind} tensor ${quote(name)}: it starts at ${entry.offset}, the one before ends at ${end}`)
    }
    end += entry.length
  }
  if (end !== size) {
    const kind = end > size ? 'is cut short' : 'has bytes that belong to no tensor'
    throw bad(path, `${kind}: its tensors end at ${end}, the file at ${size}`)
  }
  return { metadata: metadata as Record<string, string>, tensors: new Map(entries) }
}

function checkEntry(path: string, name: string, value: unknown, dataStart: number): SafetensorsEntry {
  const problem = (text: string): AppError => bad(path, `tensor ${quote(name)} ${text}`)
  if (!isObject(value)) throw problem('is not described by an object')
  const { dtype, shape, data_offsets: offsets } = value
  if (!isDType(dtype)) throw problem(`has the unknown dtype ${quote(dtype)}`)
  if (!isCounts(shape)) throw problem('has a shape that is not a list of whole numbers')
  if (shape.length > maxRank) throw problem(`has ${shape.length} dimensions, more than ${maxRank}`)
  if (!isCounts(offsets) || offsets.length !== 2 || offsets[1] < offsets[0])
    throw problem('has data_offsets that are not [start, end]')
  const [start, end] = offsets as [number, number]
  const needed = byteLength(dtype, shape)
  if (needed !== end - start)
    throw problem(
      `has ${end - start} bytes, and ${dtype} [${shape.join(', ')}] has ${needed ?? 'no whole or countable number'}`,
    )
  return { dtype, shape, offset: dataStart + start, length: needed }
}

/** Run a file operation whose errno errors are to name the file. */
async function naming<T>(path: string, operation: () => Promise<T>): Promise<T> {
  try {
    return await operation()
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : null
    if (code === 'ENOENT' || code === 'ENOTDIR')
      throw new AppError('model_not_found', `file ${path} does not exist`, { cause: error })
    if (code === null) throw error
    throw new AppError('bad_file', `file ${path} cannot be read (${code})`, { cause: error })
  }
}

/** What a file that is no safetensors most often is, by its first bytes. */
function foreignFormat(prefix: Uint8Array): string | null {
  const text = String.fromCharCode(...prefix)
  if (text.startsWith('PK\u0003\u0004')) return 'a zip archive (a PyTorch .ckpt or .pt file is one)'
  if (text.startsWith('\u0080\u0002') || text.startsWith('\u0080\u0004')) return 'a Python pickle (.ckpt, .pt or .bin)'
  if (text.startsWith('GGUF')) return 'a GGUF file'
  if (text.startsWith('version ')) return 'a Git LFS pointer; the file itself was not downloaded'
  if (/^\s*<(!doc|html|\?xml|head)/i.test(text)) return 'a web page'
  return null
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0)
}

/** `value` as JSON, short enough for a message. */
function quote(value: unknown): string {
  const text = JSON.stringify(value) ?? 'undefined'
  return text.length > 120 ? `${text.slice(0, 120)}…` : text
}

function bad(path: string, problem: string): AppError {
  return new AppError('bad_file', `file ${path} ${problem}`)
}
