// What torch.save writes since PyTorch 1.6: a zip archive of a pickle, which names and describes tensors, and of one
// entry a storage. It is read as data, and written again as safetensors.
import { open, type FileHandle } from 'node:fs/promises'
import { crc32 } from 'node:zlib'
import { AppError } from '../errors.ts'
import { byteLength, dtypeBits, type DType } from './dtype.ts'
import { readPickle } from './pickle.ts'
import { isObject, quote, type PickleDict, type PickleValue, type TorchTensor } from './pickle-value.ts'
import { readRange } from './safetensors.ts'
import { writeSafetensors } from './safetensors-writer.ts'
import { isContiguous, lastElement, rowMajor } from './torch-view.ts'
import { readZipEntries, type ZipEntry } from './zip-archive.ts'

/** The tensors of a file by their names, and where their storages lie. */
export type TorchFile = {
  readonly path: string
  /** Tensors of nested dictionaries are named by all keys, with dots between them. */
  readonly tensors: ReadonlyMap<string, TorchTensor>
  /** Storage key → its bytes. */
  readonly storages: ReadonlyMap<string, ZipEntry>
  /** Names of the values that are no weights, such as `epoch`, which are not converted. */
  readonly leftOut: readonly string[]
}

const maxPickleBytes = 16 << 20
const maxTensors = 20_000
const maxDepth = 8
/** Values that are looked at in search of tensors; parts that are shared count each time they are met. */
const maxValues = 200_000
const maxNameLength = 512
/** A view that is not in its own order is read whole. */
const maxStridedBytes = 128 << 20
/** Views of shared storages may become this large together; beyond it, twice what is stored. */
const freeBytes = 64 << 20
const pieceBytes = 4 << 20
/** Beside the storages; small, and without a meaning for weights, but for the order of bytes. */
const sideEntries = new Set(['version', 'byteorder', '.format_version', '.storage_alignment', '.data/serialization_id'])
const maxSideBytes = 64

/**
 * Read the description of the tensors in a file of torch.save; their bytes are not touched. Throws `bad_file`, also for a
 * pickle that holds or calls anything but tensors in plain containers.
 */
export async function openTorchFile(path: string): Promise<TorchFile> {
  const entries = await readZipEntries(path)
  const folder = entries[0].name.slice(0, entries[0].name.indexOf('/') + 1)
  const storages = new Map<string, ZipEntry>()
  let pickle: ZipEntry | null = null
  for (const entry of entries) {
    const name = entry.name.startsWith(folder) ? entry.name.slice(folder.length) : ''
    if (name === 'data.pkl') pickle = entry
    else if (/^data\/\d{1,9}$/.test(name)) storages.set(name.slice('data/'.length), entry)
    else if (folder !== '' && sideEntries.has(name)) await checkSideEntry(path, entry, name)
    else throw bad(path, `has the entry ${quote(entry.name)}, which is no part of a file of tensors`)
  }
  if (!pickle) throw bad(path, 'is a zip archive without a data.pkl: no file of torch.save')
  if (pickle.size > maxPickleBytes)
    throw bad(path, `has a data.pkl of ${pickle.size} bytes, more than ${maxPickleBytes}`)
  const bytes = await readRange(path, pickle.offset, pickle.size)
  if (crc32(bytes) !== pickle.crc32) throw bad(path, 'is damaged: the checksum of its data.pkl is wrong')
  const found = collect(
    path,
    readPickle(bytes, (problem) => bad(path, problem)),
  )
  checkStorages(path, found.tensors, storages)
  return { path, storages, ...found }
}

/**
 * Write the tensors of `file` to the new file `output` as safetensors, in the memory of one piece; who keeps it syncs it. Throws `bad_file` for a damaged
 * storage; errors of writing pass through.
 */
export async function convertTorchFile(file: TorchFile, output: string): Promise<void> {
  await using handle = await open(file.path, 'r')
  for (const entry of file.storages.values()) await checkSum(handle, file.path, entry)
  const entries = [...file.tensors].map(([name, { shape, storage }]) => ({ name, dtype: storage.dtype, shape }))
  const target = await open(output, 'wx')
  try {
    await writeSafetensors(target, entries, ({ name }) => bytesOf(handle, file, name))
  } finally {
    await target.close()
  }
}

async function* bytesOf(
  handle: FileHandle,
  { path, storages, tensors }: TorchFile,
  name: string,
): AsyncGenerator<Uint8Array> {
  const view = tensors.get(name)!
  const { offset: start } = storages.get(view.storage.key)!
  const itemBytes = dtypeBits[view.storage.dtype] / 8
  const begin = start + view.offset * itemBytes
  if (view.shape.includes(0)) return
  if (isContiguous(view)) {
    yield* pieces(handle, path, begin, byteLength(view.storage.dtype, view.shape)!)
    return
  }
  const span = (lastElement(view)! - view.offset + 1) * itemBytes
  const stored = new Uint8Array(span)
  let filled = 0
  for await (const piece of pieces(handle, path, begin, span)) {
    stored.set(piece, filled)
    filled += piece.length
  }
  yield rowMajor(stored, itemBytes, view)
}

/** The bytes of a range; a piece is valid until the next one is asked for. */
async function* pieces(handle: FileHandle, path: string, start: number, length: number): AsyncGenerator<Uint8Array> {
  const buffer = new Uint8Array(Math.min(length, pieceBytes))
  for (let done = 0; done < length;) {
    const { bytesRead } = await handle.read(buffer, 0, Math.min(buffer.length, length - done), start + done)
    if (bytesRead === 0) throw bad(path, `ends at byte ${start + done}, inside a tensor`)
    yield buffer.subarray(0, bytesRead)
    done += bytesRead
  }
}

async function checkSum(handle: FileHandle, path: string, entry: ZipEntry): Promise<void> {
  let sum = 0
  for await (const piece of pieces(handle, path, entry.offset, entry.size)) sum = crc32(piece, sum)
  if (sum !== entry.crc32) throw bad(path, `is damaged: the checksum of its entry ${quote(entry.name)} is wrong`)
}

async function checkSideEntry(path: string, entry: ZipEntry, name: string): Promise<void> {
  if (entry.size > maxSideBytes) throw bad(path, `has ${entry.size} bytes in its entry ${quote(entry.name)}`)
  const bytes = await readRange(path, entry.offset, entry.size)
  if (crc32(bytes) !== entry.crc32)
    throw bad(path, `is damaged: the checksum of its entry ${quote(entry.name)} is wrong`)
  const text = Buffer.from(bytes).toString('latin1')
  if (name === 'byteorder' && text !== 'little')
    throw bad(path, `has the byte order ${quote(text)}; only little-endian files are read`)
}

/** Every tensor of a pickle; of a training checkpoint those of its state_dict. */
function collect(path: string, root: PickleValue): Pick<TorchFile, 'tensors' | 'leftOut'> {
  const tensors = new Map<string, TorchTensor>()
  const leftOut: string[] = []
  let values = 0
  const visit = (value: PickleValue, name: string, depth: number): void => {
    if (++values > maxValues) throw bad(path, `has more than ${maxValues} values in its pickle`)
    if (depth > maxDepth) throw bad(path, `has containers more than ${maxDepth} deep in its pickle`)
    if (name.length > maxNameLength) throw bad(path, `has a name of more than ${maxNameLength} letters in its pickle`)
    const below = (key: string | number): string => (name === '' ? String(key) : `${name}.${key}`)
    if (!isObject(value) || value.is === 'name' || value.is === 'storage') leftOut.push(quote(name))
    else if (value.is === 'dict') for (const [key, inner] of value.entries) visit(inner, below(key), depth + 1)
    else if (value.is !== 'tensor')
      for (const [index, inner] of value.items.entries()) visit(inner, below(index), depth + 1)
    else if (tensors.has(name) || name === '' || name === '__metadata__')
      throw bad(path, `has two tensors with the name ${quote(name)}, or one without`)
    else if (tensors.size >= maxTensors) throw bad(path, `has more than ${maxTensors} tensors`)
    else tensors.set(name, value)
  }
  const state = stateDictOf(root)
  if (state) {
    const { entries } = root as PickleDict
    leftOut.push(...[...entries.keys()].filter((key) => key !== 'state_dict').map((key) => quote(String(key))))
  }
  visit(state ?? root, '', 0)
  if (tensors.size === 0) throw bad(path, 'has no tensor in its pickle')
  return { tensors, leftOut }
}

function stateDictOf(root: PickleValue): PickleDict | null {
  if (!isObject(root) || root.is !== 'dict') return null
  const state = root.entries.get('state_dict') ?? null
  return isObject(state) && state.is === 'dict' ? state : null
}

/** Every view lies inside its storage, every storage has its entry, and the whole does not become larger than it is. */
function checkStorages(
  path: string,
  tensors: ReadonlyMap<string, TorchTensor>,
  storages: ReadonlyMap<string, ZipEntry>,
): void {
  let total = 0
  for (const [name, view] of tensors) {
    const { dtype, key, length } = view.storage
    const entry = storages.get(key)
    if (!entry) throw bad(path, `has no entry for the storage ${quote(key)} of tensor ${quote(name)}`)
    if (entry.size !== byteLength(dtype, [length]))
      throw bad(
        path,
        `has ${entry.size} bytes in the storage of tensor ${quote(name)}, which is said to hold ${length} ${dtype}`,
      )
    const bytes = byteLength(dtype, view.shape)
    const last = lastElement(view)
    if (bytes === null || last === null || last >= length)
      throw bad(path, `has the tensor ${quote(name)} [${view.shape.join(', ')}], which reaches beyond its storage`)
    if (bytes > entry.size) throw bad(path, `has the tensor ${quote(name)}, which repeats the elements of its storage`)
    if (!isContiguous(view) && spanBytes(dtype, last - view.offset + 1) > maxStridedBytes)
      throw bad(
        path,
        `has the tensor ${quote(name)} in another order than its own, with more than ${maxStridedBytes} bytes`,
      )
    total += bytes
  }
  const stored = [...storages.values()].reduce((sum, { size }) => sum + size, 0)
  if (total > Math.max(2 * stored, freeBytes)) throw bad(path, `has tensors of ${total} bytes in storages of ${stored}`)
}

function spanBytes(dtype: DType, elements: number): number {
  return (elements * dtypeBits[dtype]) / 8
}

function bad(path: string, problem: string): AppError {
  return new AppError('bad_file', `file ${path} ${problem}`)
}
