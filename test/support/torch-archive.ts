// Files of torch.save, written byte by byte so that each byte can be wrong: opcodes of pickle and records of zip.
import { crc32 } from 'node:zlib'

/** Opcodes of protocol 2, and the values that go with them. */
export const op = {
  proto: (version = 2) => Buffer.from([0x80, version]),
  stop: Buffer.from('.'),
  mark: Buffer.from('('),
  emptyDict: Buffer.from('}'),
  emptyList: Buffer.from(']'),
  emptyTuple: Buffer.from(')'),
  tuple: Buffer.from('t'),
  setItems: Buffer.from('u'),
  append: Buffer.from('a'),
  reduce: Buffer.from('R'),
  build: Buffer.from('b'),
  persistentId: Buffer.from('Q'),
  none: Buffer.from('N'),
  no: Buffer.from([0x89]),
  global: (module: string, name: string) => Buffer.from(`c${module}\n${name}\n`),
  text: (value: string) => {
    const bytes = Buffer.from(value)
    const head = Buffer.alloc(5)
    head.write('X')
    head.writeUInt32LE(bytes.length, 1)
    return Buffer.concat([head, bytes])
  },
  int: (value: number) => {
    const bytes = Buffer.alloc(5)
    bytes.write('J')
    bytes.writeInt32LE(value, 1)
    return bytes
  },
  put: (index: number) => Buffer.from([0x71, index]),
  get: (index: number) => Buffer.from([0x68, index]),
} as const

/** A tensor as the pickle describes it. */
export type PickledTensor = {
  readonly name: string
  readonly shape: readonly number[]
  readonly strides?: readonly number[]
  readonly offset?: number
  /** Of its storage. */
  readonly type?: string
  readonly key?: string
  readonly length?: number
}

const ints = (values: readonly number[]): Buffer =>
  Buffer.concat([op.mark, ...values.map((value) => op.int(value)), op.tuple])

/** The call that makes one tensor; its storage is `key`, or else the number of the tensor. */
export function pickledTensor(tensor: PickledTensor, index: number): Buffer {
  const { shape, type = 'FloatStorage', key = String(index) } = tensor
  const count = shape.reduce((product, size) => product * size, 1)
  const strides = tensor.strides ?? shape.map((_, axis) => shape.slice(axis + 1).reduce((a, b) => a * b, 1))
  const storage = Buffer.concat([
    op.mark,
    op.text('storage'),
    op.global('torch', type),
    op.text(key),
    op.text('cpu'),
    op.int(tensor.length ?? count),
    op.tuple,
    op.persistentId,
  ])
  const hooks = Buffer.concat([op.global('collections', 'OrderedDict'), op.emptyTuple, op.reduce])
  const args = [op.mark, storage, op.int(tensor.offset ?? 0), ints(shape), ints(strides), op.no, hooks, op.tuple]
  return Buffer.concat([op.global('torch._utils', '_rebuild_tensor_v2'), ...args, op.reduce])
}

/** The pickle of a dictionary of tensors. */
export function pickledTensors(tensors: readonly PickledTensor[]): Buffer {
  const items = tensors.flatMap((tensor, index) => [op.text(tensor.name), pickledTensor(tensor, index)])
  return Buffer.concat([op.proto(), op.emptyDict, op.mark, ...items, op.setItems, op.stop])
}

/** An entry of a zip archive; what is not given is as it should be. */
export type ZipPart = {
  readonly name: string
  readonly bytes: Uint8Array
  readonly method?: number
  readonly flags?: number
  readonly crc?: number
  readonly packed?: number
  readonly unpacked?: number
  /** Bytes before its own header, which belong to nothing. */
  readonly gap?: number
  /** Where the directory says that it lies. */
  readonly headerOffset?: number
  /** Its name in its own header. */
  readonly localName?: string
}

/** What can be wrong with the records at the end. */
export type ZipEnd = {
  readonly count?: number
  readonly size?: number
  readonly offset?: number
  readonly comment?: Uint8Array
  /** Bytes in front of everything, counted by no offset. */
  readonly front?: Uint8Array
  /** Bytes between the last entry and the directory. */
  readonly between?: Uint8Array
  /** Parts that the directory does not name. */
  readonly hidden?: readonly ZipPart[]
}

/** A zip archive with headers, data, directory and end. */
export function zipOf(parts: readonly ZipPart[], end: ZipEnd = {}): Buffer {
  const pieces: Buffer[] = []
  const directory: Buffer[] = []
  let at = 0
  const push = (bytes: Buffer): void => {
    pieces.push(bytes)
    at += bytes.length
  }
  for (const part of [...(end.hidden ?? []), ...parts]) {
    push(Buffer.alloc(part.gap ?? 0, 0x5a))
    const header = part.headerOffset ?? at
    const crc = part.crc ?? crc32(part.bytes)
    const name = Buffer.from(part.name)
    const localName = Buffer.from(part.localName ?? part.name)
    const local = Buffer.alloc(30)
    local.writeUInt32LE(0x0403_4b50, 0)
    writeCommon(local, 4, part, crc)
    local.writeUInt16LE(localName.length, 26)
    push(Buffer.concat([local, localName, part.bytes]))
    if (end.hidden?.includes(part)) continue
    const central = Buffer.alloc(46)
    central.writeUInt32LE(0x0201_4b50, 0)
    writeCommon(central, 6, part, crc)
    central.writeUInt16LE(name.length, 28)
    central.writeUInt32LE(header, 42)
    directory.push(Buffer.concat([central, name]))
  }
  push(Buffer.from(end.between ?? []))
  const listed = Buffer.concat(directory)
  const last = Buffer.alloc(22)
  last.writeUInt32LE(0x0605_4b50, 0)
  last.writeUInt16LE(end.count ?? parts.length, 8)
  last.writeUInt16LE(end.count ?? parts.length, 10)
  last.writeUInt32LE(end.size ?? listed.length, 12)
  last.writeUInt32LE(end.offset ?? at, 16)
  last.writeUInt16LE(end.comment?.length ?? 0, 20)
  return Buffer.concat([end.front ?? Buffer.alloc(0), ...pieces, listed, last, end.comment ?? Buffer.alloc(0)])
}

/** The fields that both headers of an entry have in one order. */
function writeCommon(header: Buffer, at: number, part: ZipPart, crc: number): void {
  header.writeUInt16LE(part.flags ?? 0, at + 2)
  header.writeUInt16LE(part.method ?? 0, at + 4)
  header.writeUInt32LE(crc, at + 10)
  header.writeUInt32LE(part.packed ?? part.bytes.length, at + 14)
  header.writeUInt32LE(part.unpacked ?? part.packed ?? part.bytes.length, at + 18)
}

/** The parts of a file of torch.save. */
export function torchParts(pickle: Uint8Array, storages: readonly Uint8Array[]): ZipPart[] {
  return [
    { name: 'archive/data.pkl', bytes: pickle },
    { name: 'archive/byteorder', bytes: Buffer.from('little') },
    ...storages.map((bytes, index) => ({ name: `archive/data/${index}`, bytes })),
    { name: 'archive/version', bytes: Buffer.from('3\n') },
  ]
}

/** A file of torch.save with fp32 tensors, and with values that are none. */
export function torchFileOf(
  tensors: Readonly<Record<string, { shape: readonly number[]; data: Float32Array }>>,
  others: Readonly<Record<string, null>> = {},
): Buffer {
  const entries = Object.entries(tensors)
  const items = entries.flatMap(([name, { shape }], index) => [op.text(name), pickledTensor({ name, shape }, index)])
  const rest = Object.keys(others).flatMap((name) => [op.text(name), op.none])
  const pickle = Buffer.concat([op.proto(), op.emptyDict, op.mark, ...items, ...rest, op.setItems, op.stop])
  const bytes = entries.map(([, { data }]) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
  return zipOf(torchParts(pickle, bytes))
}
