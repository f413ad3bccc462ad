// The zip archives that torch.save writes, read as narrowly as they are written: entries are stored, lie behind each
// other from the first byte to the central directory, and are described alike in both places. What another reader could
// see differently is refused (APPNOTE.TXT 6.3.10, sections 4.3 and 4.5).
import { stat } from 'node:fs/promises'
import { AppError } from '../errors.ts'
import { readRange } from './safetensors.ts'

/** One stored file of an archive; `offset` counts from the start of the archive. */
export type ZipEntry = {
  readonly name: string
  readonly offset: number
  readonly size: number
  /** As the archive gives it; whoever reads the bytes checks it. */
  readonly crc32: number
}

const signatures = { local: 0x0403_4b50, central: 0x0201_4b50, end: 0x0605_4b50, end64: 0x0606_4b50 } as const
const locatorSignature = 0x0706_4b50
const descriptorSignature = 0x0807_4b50
const lengths = { local: 30, central: 46, end: 22, end64: 56, locator: 20 } as const
/** Flags: sizes follow the data; names are UTF-8. */
const [descriptorFlag, utf8Flag] = [0x0008, 0x0800]
const maxEntries = 20_100
const maxDirectoryBytes = 8 << 20
const maxNameBytes = 256
const none32 = 0xffff_ffff

type Directory = { readonly offset: number; readonly size: number; readonly count: number; readonly end: number }
type Listed = Omit<ZipEntry, 'offset'> & { readonly flags: number; readonly header: number }

/** The entries of the archive at `path` in the order of their bytes. Throws `bad_file`. */
export async function readZipEntries(path: string): Promise<readonly ZipEntry[]> {
  const { size } = await stat(path)
  if (size < lengths.end) throw bad(path, 'is cut short: it ends inside a zip archive')
  const directory = await findDirectory(path, size)
  const listed = await readDirectory(path, directory)
  // Headers, data and descriptors must fill the archive without a gap: nothing is read twice, nothing lies hidden.
  const entries: ZipEntry[] = []
  let end = 0
  for (const [index, entry] of listed.entries()) {
    if (entry.header !== end)
      throw bad(path, `has ${entry.header > end ? 'a gap before' : 'an overlap at'} the entry ${quote(entry.name)}`)
    const { crc32, name } = entry
    const local = await checkLocal(path, entry, listed[index + 1]?.header ?? directory.offset)
    entries.push({ name, crc32, size: entry.size, offset: local.offset })
    ;({ end } = local)
  }
  if (end !== directory.offset) throw bad(path, 'has bytes between its last entry and its central directory')
  return entries
}

/** Where the one central directory lies, by the records that end the archive. */
async function findDirectory(path: string, size: number): Promise<Directory> {
  const tailLength = Math.min(size, lengths.end + lengths.locator + lengths.end64)
  const tailStart = size - tailLength
  const tail = viewOf(await readRange(path, tailStart, tailLength))
  const at = tailLength - lengths.end
  if (tail.getUint32(at, true) !== signatures.end || tail.getUint16(at + 20, true) !== 0)
    throw bad(path, 'is a zip archive that is cut short, or has something behind its end')
  if (tail.getUint32(at + 4, true) !== 0) throw bad(path, 'is one of several parts of a zip archive')
  const counts = [tail.getUint16(at + 8, true), tail.getUint16(at + 10, true)] as const
  const short = { count: counts[1], size: tail.getUint32(at + 12, true), offset: tail.getUint32(at + 16, true) }
  if (counts[0] !== counts[1]) throw bad(path, 'is one of several parts of a zip archive')

  let directory: Directory = { ...short, end: tailStart + at }
  const locator = at - lengths.locator
  if (locator >= lengths.end64 && tail.getUint32(locator, true) === locatorSignature) {
    const long = read64(path, tail, locator, tailStart)
    const differs = (['count', 'size', 'offset'] as const).find(
      (key) => short[key] !== long[key] && short[key] !== (key === 'count' ? 0xffff : none32),
    )
    if (differs !== undefined) throw bad(path, `has two ends that give two values for the ${differs} of its directory`)
    directory = long
  }
  if (directory.count === 0 || directory.count > maxEntries)
    throw bad(path, `has ${directory.count} entries; a model has 1 to ${maxEntries}`)
  if (directory.size > maxDirectoryBytes) throw bad(path, `has a central directory of ${directory.size} bytes`)
  if (directory.offset + directory.size !== directory.end)
    throw bad(path, 'has a central directory that is not where its end says')
  return directory
}

function read64(path: string, tail: DataView, locator: number, tailStart: number): Directory {
  const record = locator - lengths.end64
  if (
    tail.getUint32(record, true) !== signatures.end64 ||
    toNumber(path, tail.getBigUint64(record + 4, true)) !== lengths.end64 - 12 ||
    toNumber(path, tail.getBigUint64(locator + 8, true)) !== tailStart + record
  )
    throw bad(path, 'has a zip64 end that is not where its locator says')
  const [here, count, size, offset] = [24, 32, 40, 48].map((at) =>
    toNumber(path, tail.getBigUint64(record + at, true)),
  ) as [number, number, number, number]
  if (here !== count) throw bad(path, 'is one of several parts of a zip archive')
  return { count, size, offset, end: tailStart + record }
}

async function readDirectory(path: string, { count, offset, size }: Directory): Promise<readonly Listed[]> {
  const bytes = await readRange(path, offset, size)
  const view = viewOf(bytes)
  const listed: Listed[] = []
  const names = new Set<string>()
  let at = 0
  for (let index = 0; index < count; index++) {
    if (at + lengths.central > size || view.getUint32(at, true) !== signatures.central)
      throw bad(path, `has a central directory that breaks off at entry ${index} of ${count}`)
    const [nameLength, extraLength, commentLength] = [28, 30, 32].map((field) => view.getUint16(at + field, true)) as [
      number,
      number,
      number,
    ]
    const nameAt = at + lengths.central
    const next = nameAt + nameLength + extraLength + commentLength
    if (next > size) throw bad(path, `has a central directory that breaks off at entry ${index} of ${count}`)
    const name = nameOf(path, bytes.subarray(nameAt, nameAt + nameLength))
    if (names.has(name)) throw bad(path, `has the entry ${quote(name)} twice`)
    names.add(name)
    const flags = view.getUint16(at + 8, true)
    checkStored(path, name, flags, view.getUint16(at + 10, true))
    const wide = { size: view.getUint32(at + 24, true), packed: view.getUint32(at + 20, true) }
    const fields = [wide.size, wide.packed, view.getUint32(at + 42, true)]
    const [unpacked, packed, header] = widen(path, name, fields, bytes.subarray(nameAt + nameLength, next))
    if (unpacked !== packed) throw bad(path, `has a compressed entry: ${quote(name)}`)
    listed.push({ name, flags, header, size: unpacked, crc32: view.getUint32(at + 16, true) })
    at = next
  }
  if (at !== size) throw bad(path, 'has more in its central directory than its entries')
  return listed.sort((a, b) => a.header - b.header)
}

/** Sizes and offset of an entry; those that do not fit into 32 bits are in its zip64 field (4.5.3), in this order. */
function widen(path: string, name: string, fields: readonly number[], extra: Uint8Array): [number, number, number] {
  const view = viewOf(extra)
  let [at, end] = [0, 0]
  for (let start = 0; start + 4 <= extra.length;) {
    const length = view.getUint16(start + 2, true)
    if (view.getUint16(start, true) === 1) [at, end] = [start + 4, Math.min(start + 4 + length, extra.length)]
    start += 4 + length
  }
  return fields.map((field) => {
    if (field !== none32) return field
    if (at + 8 > end) throw bad(path, `has an entry without its sizes: ${quote(name)}`)
    at += 8
    return toNumber(path, view.getBigUint64(at - 8, true))
  }) as [number, number, number]
}

/** Compare an entry's own header with the directory; returns where its data begin and where the entry ends. */
async function checkLocal(
  path: string,
  entry: Listed,
  next: number,
): Promise<{ readonly offset: number; readonly end: number }> {
  const { header, name, size } = entry
  const differs = (): AppError => bad(path, `describes the entry ${quote(name)} in two ways`)
  if (header + lengths.local > next) throw bad(path, `is cut short inside the entry ${quote(name)}`)
  const bytes = await readRange(path, header, Math.min(next - header, lengths.local + maxNameBytes))
  const view = viewOf(bytes)
  if (view.getUint32(0, true) !== signatures.local) throw differs()
  const [nameLength, extraLength] = [view.getUint16(26, true), view.getUint16(28, true)]
  const nameBytes = bytes.subarray(lengths.local, lengths.local + nameLength)
  if (nameBytes.length !== nameLength || nameOf(path, nameBytes) !== name) throw differs()
  checkStored(path, name, view.getUint16(6, true), view.getUint16(8, true))
  const streamed = (entry.flags & descriptorFlag) !== 0
  if (view.getUint16(6, true) !== entry.flags) throw differs()
  const said = [14, 18, 22].map((field) => view.getUint32(field, true))
  const wanted = [entry.crc32, size, size]
  const isFree = (value: number): boolean => value === none32 || (streamed && value === 0)
  if (said.some((value, index) => value !== wanted[index] && !isFree(value))) throw differs()

  const offset = header + lengths.local + nameLength + extraLength
  const end = offset + size
  if (end > next) throw bad(path, `has an overlap at the entry ${quote(name)}`)
  return { offset, end: streamed ? await checkDescriptor(path, entry, end, next) : end }
}

/** The record behind the data of a streamed entry, with 32 or 64 bits a size (4.3.9). */
async function checkDescriptor(path: string, { crc32, name, size }: Listed, at: number, next: number): Promise<number> {
  const length = next - at
  const wrong = (): AppError => bad(path, `has a wrong record behind the entry ${quote(name)}`)
  if (length !== 16 && length !== 24) throw wrong()
  const view = viewOf(await readRange(path, at, length))
  const sizes =
    length === 16
      ? [view.getUint32(8, true), view.getUint32(12, true)]
      : [toNumber(path, view.getBigUint64(8, true)), toNumber(path, view.getBigUint64(16, true))]
  if (view.getUint32(0, true) !== descriptorSignature || view.getUint32(4, true) !== crc32) throw wrong()
  if (sizes.some((value) => value !== size)) throw wrong()
  return next
}

function checkStored(path: string, name: string, flags: number, method: number): void {
  if (method !== 0) throw bad(path, `has a compressed entry: ${quote(name)}; torch.save stores them`)
  if ((flags & ~(descriptorFlag | utf8Flag)) !== 0) throw bad(path, `has an encrypted or odd entry: ${quote(name)}`)
}

/** A name that could be a file's nowhere but below a folder of its own. */
function nameOf(path: string, bytes: Uint8Array): string {
  const name = Buffer.from(bytes).toString('utf8')
  const isOdd = /[\p{Cc}\p{Cs}\ufffd\\:]/u.test(name) || name.split('/').some((part) => /^\.{0,2}$/.test(part))
  if (isOdd || bytes.length > maxNameBytes) throw bad(path, `has an entry with the name ${quote(name)}`)
  return name
}

function toNumber(path: string, value: bigint): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw bad(path, `has a size of ${value} in its zip directory`)
  return Number(value)
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

function quote(name: string): string {
  return JSON.stringify(name.length > 80 ? `${name.slice(0, 80)}…` : name)
}

function bad(path: string, problem: string): AppError {
  return new AppError('bad_file', `file ${path} ${problem}`)
}
