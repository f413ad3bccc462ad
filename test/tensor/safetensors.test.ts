import { mkdir, mkdtemp, open, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { byteLength, dtypeBits, type DType } from '#tensor/dtype.ts'
import { layoutSafetensors, writeSafetensors } from '#tensor/safetensors-writer.ts'
import { openSafetensors, readRange, readTensorF32, type SafetensorsFile } from '#tensor/safetensors.ts'
import { AppError } from '../../src/errors.ts'

let folder: string
let path: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'safetensors-'))
  path = join(folder, 'file.safetensors')
})
afterAll(() => rm(folder, { recursive: true }))

const f32 = (...offsets: number[]): object => ({ dtype: 'F32', shape: [1], data_offsets: offsets })

/** A file of a header, as text or object, and as many bytes of data. */
async function file(header: unknown, dataBytes: number): Promise<string> {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(BigInt(json.length))
  await writeFile(path, Buffer.concat([prefix, json, Buffer.alloc(dataBytes)]))
  return path
}

describe('a header that is refused', () => {
  const many = Object.fromEntries(
    Array.from({ length: 20_001 }, (_, index) => [`t${index}`, { dtype: 'U8', shape: [0], data_offsets: [0, 0] }]),
  )
  test.each<[string, unknown, number, string]>([
    ['not an object', '[]', 0, 'does not start with "{"'],
    ['white space first', ' {}', 0, 'does not start with "{"'],
    ['not JSON', '{"a":}', 0, 'header that is not JSON'],
    ['two JSON values', '{}{}', 0, 'header that is not JSON'],
    ['a key twice', `{"a":${JSON.stringify(f32(0, 4))},"a":${JSON.stringify(f32(0, 4))}}`, 4, 'the key "a" twice'],
    ['a key twice, once escaped', '{"a":{"x":1},"\\u0061":{}}', 0, 'the key "a" twice'],
    ['a field twice', '{"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}', 4, 'the key "shape" twice'],
    ['a tensor that is a number', { a: 1 }, 0, 'tensor "a" is not described by an object'],
    ['an unknown dtype', { a: { ...f32(0, 4), dtype: 'F128' } }, 4, 'unknown dtype "F128"'],
    ['a dtype out of the prototype', { a: { ...f32(0, 4), dtype: 'toString' } }, 4, 'unknown dtype "toString"'],
    ['no dtype', { a: { shape: [1], data_offsets: [0, 4] } }, 4, 'unknown dtype undefined'],
    ['a negative size', { a: { ...f32(0, 4), shape: [-1] } }, 4, 'not a list of whole numbers'],
    ['a broken size', { a: { ...f32(0, 4), shape: [0.5] } }, 4, 'not a list of whole numbers'],
    [
      'a size beyond doubles',
      '{"a":{"dtype":"U8","shape":[9007199254740993],"data_offsets":[0,1]}}',
      1,
      'whole numbers',
    ],
    ['a shape that is text', { a: { ...f32(0, 4), shape: '1' } }, 4, 'not a list of whole numbers'],
    [
      'nine dimensions',
      { a: { ...f32(0, 4), shape: Array.from({ length: 9 }, () => 1) } },
      4,
      '9 dimensions, more than 8',
    ],
    ['offsets backwards', { a: f32(4, 0) }, 4, 'data_offsets that are not [start, end]'],
    ['one offset', { a: f32(0) }, 4, 'data_offsets that are not [start, end]'],
    ['negative offsets', { a: f32(-4, 0) }, 4, 'data_offsets that are not [start, end]'],
    ['too few bytes', { a: { ...f32(0, 4), shape: [2] } }, 4, 'tensor "a" has 4 bytes, and F32 [2] has 8'],
    ['an overflowing product', { a: { ...f32(0, 0), shape: [2 ** 32, 2 ** 32] } }, 0, 'no whole or countable number'],
    ['half a byte', { a: { dtype: 'F4', shape: [1], data_offsets: [0, 1] } }, 1, 'no whole or countable number'],
    ['a hole', { a: f32(0, 4), b: f32(8, 12) }, 12, 'a hole before tensor "b"'],
    ['a hole at the start', { a: f32(4, 8) }, 8, 'a hole before tensor "a"'],
    ['an overlap', { a: f32(0, 4), b: f32(2, 6) }, 6, 'an overlap at tensor "b"'],
    ['the same bytes twice', { a: f32(0, 4), b: f32(0, 4) }, 4, 'an overlap at tensor "b"'],
    ['missing data', { a: f32(0, 4) }, 3, 'is cut short: its tensors end at'],
    ['data of no tensor', { a: f32(0, 4) }, 5, 'bytes that belong to no tensor'],
    ['metadata that are a list', { __metadata__: [] }, 0, '__metadata__'],
    ['metadata with a number', { __metadata__: { a: 1 } }, 0, '__metadata__'],
    ['too many tensors', many, 0, '20001 tensors, more than 20000'],
  ])('%s', async (_, header, dataBytes, message) => {
    const error = await openSafetensors(await file(header, dataBytes)).catch((error: unknown) => error)
    expect(error).toBeInstanceOf(AppError)
    expect(error).toMatchObject({ code: 'bad_file', message: expect.stringContaining(message) as string })
    expect((error as AppError).message).toContain(path)
    expect((error as AppError).message).not.toContain('\n')
  })
})

describe('bytes that are refused', () => {
  const le64 = (value: bigint): Buffer => {
    const bytes = Buffer.alloc(8)
    bytes.writeBigUInt64LE(value)
    return bytes
  }
  test.each<[string, Uint8Array, string]>([
    ['an empty file', Buffer.alloc(0), 'has 0 bytes'],
    ['seven bytes', Buffer.alloc(7), 'has 7 bytes'],
    ['a header longer than the file', Buffer.concat([le64(3n), Buffer.from('{}')]), 'cut short or not safetensors'],
    ['a header of no bytes', Buffer.concat([le64(0n), Buffer.from('{}')]), 'cut short or not safetensors'],
    ['a header of 17 MiB', Buffer.concat([le64(17n << 20n), Buffer.alloc(18 << 20)]), 'more than 16777216'],
    ['a length beyond doubles', Buffer.concat([le64(2n ** 64n - 1n), Buffer.from('{}')]), 'more than 16777216'],
    ['not UTF-8', Buffer.concat([le64(8n), Buffer.from('{"\u00ff":{}}', 'latin1')]), 'not UTF-8'],
    ['a zip archive', Buffer.from('PK\u0003\u0004 and so on and on'), 'a zip archive'],
    ['a pickle', Buffer.from('\u0080\u0002}q\u0000(X and so on', 'latin1'), 'a Python pickle'],
    ['a Git LFS pointer', Buffer.from('version https://git-lfs.example/spec/v1\noid sha256:0'), 'a Git LFS pointer'],
    ['a web page', Buffer.from('<!DOCTYPE html><html></html>'), 'a web page'],
    ['a GGUF file', Buffer.from('GGUF\u0003\u0000\u0000\u0000 and so on'), 'a GGUF file'],
  ])('%s', async (_, bytes, message) => {
    await writeFile(path, bytes)
    const expected = { code: 'bad_file', message: expect.stringContaining(message) as string }
    await expect(openSafetensors(path)).rejects.toMatchObject(expected)
  })

  test('a folder, and a file that does not exist', async () => {
    await mkdir(join(folder, 'a folder'))
    await expect(openSafetensors(join(folder, 'a folder'))).rejects.toMatchObject({
      code: 'bad_file',
      message: expect.stringContaining('not a regular file') as string,
    })
    await expect(openSafetensors(join(folder, 'none'))).rejects.toMatchObject({ code: 'model_not_found' })
    await expect(openSafetensors(join(path, 'below'))).rejects.toMatchObject({ code: 'model_not_found' })
  })
})

test('a range behind the end is an error, not zeros', async () => {
  await writeFile(path, Buffer.alloc(10, 7))
  expect(await readRange(path, 4, 6)).toEqual(new Uint8Array(6).fill(7))
  await expect(readRange(path, 4, 7)).rejects.toMatchObject({
    code: 'bad_file',
    message: expect.stringContaining('ends at byte 10') as string,
  })
})

test('empty tensors, scalars and padding after the JSON are fine, and order is the order of the bytes', async () => {
  const header = {
    b: { dtype: 'F32', shape: [], data_offsets: [0, 4] },
    e: { dtype: 'F16', shape: [0, 3], data_offsets: [4, 4] },
  }
  const opened = await openSafetensors(await file(`${JSON.stringify({ z: f32(4, 8), ...header })}     `, 8))
  expect([...opened.tensors.keys()]).toEqual(['b', 'e', 'z'])
  expect(opened.tensors.get('e')).toMatchObject({ shape: [0, 3], length: 0 })
})

test('a file of 6.9 GB opens without being read', async () => {
  const entries = [{ name: 'big', dtype: 'F16', shape: [3_450, 1_000_000] }] as const
  const layout = layoutSafetensors(entries)
  await writeFile(path, layout.header)
  await truncate(path, layout.size)
  const opened = await openSafetensors(path)
  expect(opened.size).toBe(6_900_000_000 + layout.header.length)
  expect(opened.tensors.get('big')).toEqual(layout.tensors.get('big'))
  await truncate(path, 0)
})

const arbitraryTensors = fc.uniqueArray(
  fc.record({
    name: fc.string({ unit: 'binary' }).filter((name) => name !== '__metadata__' && name.isWellFormed()),
    dtype: fc.constantFrom(...(Object.keys(dtypeBits) as DType[]).filter((dtype) => dtypeBits[dtype] >= 8)),
    shape: fc.array(fc.nat({ max: 4 }), { maxLength: 4 }),
  }),
  { selector: ({ name }) => name, maxLength: 12 },
)

test('what is written is read: names, formats, shapes, metadata and bytes', async () => {
  await fc.assert(
    fc.asyncProperty(
      arbitraryTensors,
      fc.dictionary(fc.string(), fc.string(), { maxKeys: 3 }),
      fc.integer({ min: 1, max: 9 }),
      async (entries, metadata, chunk) => {
        const data = entries.map(({ dtype, shape }, index) => Buffer.alloc(byteLength(dtype, shape)!, index + 1))
        const layout = await writeSafetensors(
          path,
          entries,
          function* (_, index) {
            for (let at = 0; at < data[index].length; at += chunk) yield data[index].subarray(at, at + chunk)
          },
          metadata,
        )
        const opened = await openSafetensors(path)
        expect(opened.size).toBe(layout.size)
        expect(layout.header.length % 8).toBe(0)
        expect({ ...opened.metadata }).toEqual({ ...metadata })
        expect(new Map(opened.tensors)).toEqual(new Map(layout.tensors))
        for (const [index, { name }] of entries.entries()) {
          const { offset, length } = opened.tensors.get(name)!
          expect(Buffer.from(await readRange(path, offset, length)).equals(data[index])).toBe(true)
        }
      },
    ),
    { numRuns: 100 },
  )
})

function dataBytesOf({ tensors }: SafetensorsFile): number {
  return [...tensors.values()].reduce((sum, { length }) => sum + length, 0)
}

test('flipped bytes in a header end in a file that is still whole or in bad_file, nothing else', async () => {
  const entries = [
    { name: 'a', dtype: 'F32', shape: [2, 3] },
    { name: 'b', dtype: 'F16', shape: [5] },
    { name: 'c', dtype: 'I64', shape: [] },
  ] as const
  const layout = await writeSafetensors(
    path,
    entries,
    (entry) => [new Uint8Array(byteLength(entry.dtype, entry.shape)!)],
    { k: 'v' },
  )
  const whole = await readFile(path)
  const flips = fc.array(fc.tuple(fc.nat({ max: layout.header.length - 1 }), fc.integer({ min: 1, max: 255 })), {
    minLength: 1,
    maxLength: 4,
  })
  await fc.assert(
    fc.asyncProperty(flips, async (changes) => {
      const broken = Buffer.from(whole)
      for (const [at, mask] of changes) broken[at] ^= mask
      await writeFile(path, broken)
      const result = await openSafetensors(path).catch((error: unknown) => error)
      const isRefused = result instanceof AppError && result.code === 'bad_file'
      expect(isRefused || dataBytesOf(result as SafetensorsFile) === layout.size - layout.header.length).toBe(true)
    }),
    { numRuns: 500 },
  )
})

describe('the writer', () => {
  const entries = [{ name: 'a', dtype: 'U8', shape: [4] }] as const

  test('refuses the wrong number of bytes and leaves no file', async () => {
    await rm(path, { force: true })
    await expect(writeSafetensors(path, entries, () => [new Uint8Array(3)])).rejects.toThrow('given 3 bytes and has 4')
    await expect(openSafetensors(path)).rejects.toMatchObject({ code: 'model_not_found' })
  })

  test('refuses two tensors of one name', () => {
    expect(() => layoutSafetensors([...entries, ...entries])).toThrow('cannot lay out tensor "a"')
  })

  test('writes through a handle that stays open', async () => {
    await using handle = await open(path, 'w')
    await writeSafetensors(handle, entries, () => [new Uint8Array([1, 2]), new Uint8Array([3, 4])])
    await handle.sync()
    const { offset } = (await openSafetensors(path)).tensors.get('a')!
    expect([...(await readRange(path, offset, 4))]).toEqual([1, 2, 3, 4])
  })

  test("lets the file system's own error through", async () => {
    await expect(writeSafetensors(join(folder, 'none/file'), entries, () => [])).rejects.toMatchObject({
      code: 'ENOENT',
    })
  })
})

test('a stored tensor becomes fp32', async () => {
  const values = Float16Array.of(1, -2, 0.5)
  await writeSafetensors(path, [{ name: 'a', dtype: 'F16', shape: [3, 1] }], () => [new Uint8Array(values.buffer)])
  const { offset, length } = (await openSafetensors(path)).tensors.get('a')!
  const stored = { dtype: 'F16', shape: [3, 1], source: { file: path, offset, length } } as const
  expect(await readTensorF32(stored)).toEqual({ shape: [3, 1], data: Float32Array.of(1, -2, 0.5) })
  const inMemory = { ...stored, source: { bytes: new Uint8Array(values.buffer) } }
  expect(await readTensorF32(inMemory)).toEqual(await readTensorF32(stored))
})
