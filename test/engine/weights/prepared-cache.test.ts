import { execFile } from 'node:child_process'
import { closeSync, existsSync, openSync, writeSync } from 'node:fs'
import {
  chmod,
  copyFile,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  stat,
  symlink,
  truncate,
  utimes,
  writeFile,
} from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { cacheFault } from '#engine/weights/cache-folder.ts'
import { WEIGHTS_VERSION, type PreparedWeights } from '#engine/weights/cached-weights.ts'
import type { Component, StoredTensor, WeightDType, Weights } from '#engine/weights/checkpoint.ts'
import { componentHash } from '#engine/weights/hash.ts'
import { prepareWeights, tokenTable, type PrepareOptions } from '#engine/weights/prepared-cache.ts'
import { openSafetensors, readTensorBytes, readTensorF32 } from '#tensor/safetensors.ts'
import { createScratch } from '#worker/scratch-folder.ts'
import type { AppError } from '../../../src/errors.ts'
import { componentOf } from '../../support/component-of.ts'
import type { PrepareJob, PrepareOutcome } from '../../support/prepare-weights.ts'
import { tinyModels } from '../../support/tiny-b-single-file.ts'

const tinyB = join(tinyModels, 'tiny-b/unet/diffusion_pytorch_model.safetensors')
const tinyA = join(tinyModels, 'tiny-a/unet/diffusion_pytorch_model.safetensors')
/** For calls that end before it matters. */
const anyHash = '5e'.repeat(32)
const fileName = (hash: string, dtype = 'F32'): string => `${hash}-${dtype}-v${WEIGHTS_VERSION}.safetensors`

let root: string
let cacheDir: string
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'prepare-'))
  cacheDir = join(root, 'cache')
  await mkdir(join(root, 'scratch'))
})
afterEach(() => rm(root, { recursive: true }))

const options = (more: Partial<PrepareOptions> = {}): PrepareOptions => ({
  dtype: 'F32',
  cacheDir,
  scratchDir: join(root, 'scratch'),
  limitBytes: 1e12,
  ...more,
})

/** What the engine does with a component: hash it, then prepare it under that hash. */
async function prepare(component: Component<object>, more: Partial<PrepareOptions> = {}): Promise<Weights> {
  return (await hold(component, more)).weights
}

/** The same, with the hold on the file. */
async function hold(component: Component<object>, more: Partial<PrepareOptions> = {}): Promise<PreparedWeights> {
  return prepareWeights(component, await hashOf(component), options(more))
}

const hashOf = (component: Component<object>, indexDir = cacheDir): Promise<string> =>
  componentHash(component, { cacheDir: indexDir, scratchDir: join(root, 'scratch') })

/** The one file that prepared weights are in. */
function fileOf(weights: Weights): string {
  const converted = [...weights].filter(([name]) => name !== tokenTable)
  const files = new Set(converted.map(([name, { source }]) => ('file' in source ? source.file : name)))
  if (files.size !== 1) throw new Error(`weights are in ${[...files].join(', ')}`)
  return [...files][0]
}

/** A component of tensors in memory. */
function inMemory(
  tensors: Record<string, { dtype: WeightDType; values: ArrayBufferView; shape: number[] }>,
): Component<object> {
  const weights = new Map<string, StoredTensor>()
  for (const [name, { dtype, values, shape }] of Object.entries(tensors))
    weights.set(name, {
      dtype,
      shape,
      source: { bytes: new Uint8Array(values.buffer, values.byteOffset, values.byteLength) },
    })
  return { name: 'unet', config: {}, weights }
}

/** The values of a tensor by another way than the code under test. */
async function valuesOf(tensor: StoredTensor): Promise<number[]> {
  const { buffer } = (await readTensorBytes(tensor)).slice()
  if (tensor.dtype === 'F32') return Array.from(new Float32Array(buffer))
  if (tensor.dtype === 'F16') return Array.from(new Float16Array(buffer))
  const words = Array.from(new Uint16Array(buffer), (word) => word << 16)
  return Array.from(new Float32Array(Int32Array.from(words).buffer))
}

/** The names of the tensors of `actual` that are not those of `expected` with each value passed through `round`. */
async function differences(actual: Weights, expected: Weights, round: (value: number) => number): Promise<string[]> {
  if (actual.size !== expected.size) return [`${actual.size} tensors instead of ${expected.size}`]
  const different: string[] = []
  for (const [name, tensor] of expected) {
    const wanted = (await valuesOf(tensor)).map(round)
    const found = actual.get(name)
    const values = found && found.shape.join() === tensor.shape.join() ? await valuesOf(found) : []
    if (values.length !== wanted.length || !values.every((value, i) => Object.is(value, wanted[i])))
      different.push(name)
  }
  return different
}

const same = (value: number): number => value
const toHalf = (value: number): number => new Float16Array([value])[0]

async function leftovers(): Promise<string[]> {
  const found = await Promise.all(
    ['weights', 'scratch'].map(async (name) => {
      const folder = join(cacheDir, name)
      return existsSync(folder) ? (await readdir(folder)).map((file) => `${name}/${file}`) : []
    }),
  )
  return [...found.flat(), ...(await readdir(join(root, 'scratch')))]
}

/** Run test/support/prepare-weights.ts, through `wrapper` when given: a shell command that ends with running "$@". */
async function prepareInProcess(job: Partial<PrepareJob>, wrapper: string[] = []): Promise<PrepareOutcome> {
  const script = join(import.meta.dirname, '../../support/prepare-weights.ts')
  const command = [...wrapper, process.execPath, script, JSON.stringify({ file: tinyB, cacheDir, ...job })]
  const { stdout } = await promisify(execFile)(command[0], command.slice(1))
  return JSON.parse(stdout) as PrepareOutcome
}

describe('what is prepared', () => {
  it('gives weights of the wanted format in files as they are, and makes nothing', async () => {
    const component = await componentOf('unet', tinyA)
    expect((await prepareWeights(component, anyHash, options())).weights).toBe(component.weights)
    expect(existsSync(cacheDir)).toBe(false)
  })

  it('converts fp16 to fp32, value by value', async () => {
    const component = await componentOf('unet', tinyB)
    const prepared = await prepare(component)
    expect(await differences(prepared, component.weights, same)).toEqual([])
    expect([...prepared.keys()]).toEqual([...component.weights.keys()])
    const file = fileOf(prepared)
    for (const tensor of prepared.values()) expect(tensor).toMatchObject({ dtype: 'F32', source: { file } })
    expect(await leftovers()).toEqual([`weights/${basename(file)}`])
    expect((await openSafetensors(file)).tensors.size).toBe(component.weights.size)
  })

  it('converts fp32 to fp16, rounding to the nearest', async () => {
    const component = await componentOf('unet', tinyA)
    const prepared = await prepare(component, { dtype: 'F16' })
    expect(await differences(prepared, component.weights, toHalf)).toEqual([])
  })

  it('converts to bf16, rounding to the nearest', async () => {
    const component = inMemory({
      f16: { dtype: 'F16', values: Float16Array.of(1, -2.5, 65504), shape: [3] },
      // Halfway between two numbers of bf16, to the even one; then just above.
      f32: { dtype: 'F32', values: Float32Array.of(1 + 2 ** -8, 1 + 2 ** -8 + 2 ** -20, 1e38), shape: [3] },
    })
    const prepared = await prepare(component, { dtype: 'BF16' })
    expect(prepared.get('f16')).toMatchObject({ dtype: 'BF16', shape: [3] })
    const values = async (name: string) => [...(await readTensorF32(prepared.get(name)!)).data]
    expect(await values('f16')).toEqual([1, -2.5, 65536])
    expect(await values('f32')).toEqual([1, 1 + 2 ** -7, expect.closeTo(1e38, -36)])
    const large = inMemory({ big: { dtype: 'F32', values: Float32Array.of(3.4e38), shape: [1] } })
    await expect(prepare(large, { dtype: 'BF16' })).rejects.toMatchObject({
      code: 'not_finite',
      message: expect.stringMatching(/"big" holds ±3\.\d+e\+38, bf16 ends at ±3\.39e38; this model needs fp32$/),
    })
  })

  it('converts bf16 to both, mixes formats, and writes tensors that were in memory', async () => {
    const values = [1, -2.5, 0, -0, 3e-5, 1e4]
    const words = (list: number[]): Uint16Array =>
      Uint16Array.from(new Uint32Array(Float32Array.from(list).buffer), (w) => w >>> 16)
    const component = inMemory({
      bf16: { dtype: 'BF16', values: words(values), shape: [2, 3] },
      f16: { dtype: 'F16', values: Float16Array.from(values), shape: [6] },
      f32: { dtype: 'F32', values: Float32Array.from(values), shape: [3, 2] },
      scalar: { dtype: 'F16', values: Float16Array.of(7), shape: [] },
      empty: { dtype: 'F16', values: new Float16Array(0), shape: [0, 4] },
    })
    expect(await differences(await prepare(component), component.weights, same)).toEqual([])
    const half = await prepare(component, { dtype: 'F16' })
    expect(await differences(half, component.weights, toHalf)).toEqual([])
  })

  it('leaves an fp32 model in its file for all that one of its tensors had to be transposed into memory', async () => {
    const [matrix] = inMemory({ m: { dtype: 'F32', values: Float32Array.of(1, 2), shape: [2] } }).weights.values()
    const { weights, ...rest } = await componentOf('textEncoder2', tinyA)
    const component = { ...rest, weights: new Map([...weights, ['text_projection.weight', matrix]]) }
    expect((await prepareWeights(component, anyHash, options())).weights).toBe(component.weights)
    expect(existsSync(cacheDir)).toBe(false)
  })

  it('keeps pieces together when a tensor is longer than one', async () => {
    const count = 9 * 1024 * 1024 + 3
    const long = Uint16Array.from({ length: count }, (_, i) => (i * 7919) % 0x7c00)
    const bits = { dtype: 'F16' as const, values: long, shape: [count] }
    const prepared = await prepare(inMemory({ long: bits, after: { ...bits, values: long.slice(0, 3), shape: [3] } }))
    const actual = new Float32Array((await readTensorBytes(prepared.get('long')!)).slice().buffer)
    const expected = new Float32Array(new Float16Array(long.buffer))
    expect(Buffer.compare(Buffer.from(actual.buffer), Buffer.from(expected.buffer))).toBe(0)
    expect(await valuesOf(prepared.get('after')!)).toEqual([...expected.subarray(0, 3)])
  })

  it('leaves the table of token embeddings where it is', async () => {
    const source = await componentOf('textEncoder', join(tinyModels, 'tiny-b/text_encoder/model.safetensors'))
    const weights = new Map(
      [...source.weights].map(([name, t]) => [name.endsWith('token_embedding.weight') ? tokenTable : name, t]),
    )
    const prepared = await prepare({ ...source, weights })
    expect(prepared.get(tokenTable)).toBe(weights.get(tokenTable))
    expect([...prepared.keys()]).toEqual([...weights.keys()])
    const { tensors } = await openSafetensors(fileOf(prepared))
    expect(tensors.size).toBe(weights.size - 1)
    // Alone in another format it is no reason to write anything.
    const table = {
      name: 'textEncoder',
      config: {},
      weights: new Map([[tokenTable, weights.get(tokenTable)!]]),
    } as const
    expect((await prepareWeights(table, anyHash, options())).weights).toBe(table.weights)
  })

  it('refuses a weight that fp16 cannot hold, and leaves nothing', async () => {
    const component = inMemory({
      fine: { dtype: 'F32', values: Float32Array.of(65504, -65504), shape: [2] },
      'mid.bad': { dtype: 'F32', values: Float32Array.of(1, -65520), shape: [2] },
    })
    await expect(prepare(component, { dtype: 'F16' })).rejects.toMatchObject({
      code: 'not_finite',
      message: expect.stringMatching(/"mid.bad" holds ±65520, fp16 ends at ±65504/),
    })
    expect(await leftovers()).toEqual([])
  })

  it('tells a truncated source from a bad cache, and leaves nothing', async () => {
    const file = join(root, 'cut.safetensors')
    await copyFile(tinyB, file)
    const component = await componentOf('unet', file)
    const hash = await hashOf(component)
    await truncate(file, 2_000_000)
    await expect(prepareWeights(component, hash, options())).rejects.toMatchObject({
      code: 'bad_file',
      message: expect.stringContaining('ends at byte 2000000'),
    })
    await rm(file)
    await expect(prepareWeights(component, hash, options())).rejects.toMatchObject({ code: 'bad_file' })
    expect(await leftovers()).toEqual([])
  })

  it.each(['between hashing and preparing', 'while it is prepared'])(
    'keeps nothing of a file that changes %s',
    async (when) => {
      const file = join(root, 'changing.safetensors')
      await copyFile(tinyB, file)
      const component = await componentOf('unet', file)
      const hash = await hashOf(component)
      const { size } = await stat(file)
      const change = (): void => {
        const handle = openSync(file, 'r+')
        writeSync(handle, 'changed!', size - 8)
        closeSync(handle)
      }
      if (when.startsWith('between')) change()
      const preparing = prepareWeights(component, hash, options({ onProgress: change }))
      await expect(preparing).rejects.toMatchObject({
        code: 'bad_file',
        message: expect.stringContaining('have changed since'),
      })
      expect(await leftovers()).toEqual([])
    },
  )
})

describe('the second time', () => {
  it('uses the file that is there, marks it as used, and reports no progress', async () => {
    const component = await componentOf('unet', tinyB)
    const progress: [number, number][] = []
    const first = await prepare(component, { onProgress: (...bytes) => progress.push(bytes) })
    const total = [...component.weights.values()].reduce(
      (sum, { source }) => sum + ('file' in source ? source.length : 0),
      0,
    )
    expect(progress.at(-1)).toEqual([total, total])
    expect(progress.every(([done], i) => i === 0 || done >= progress[i - 1][0])).toBe(true)
    const file = fileOf(first)
    const { ino } = await stat(file)
    await utimes(file, 1000, 1000)
    const fail = (): void => {
      throw new Error('prepared again')
    }
    expect(await prepare(component, { onProgress: fail })).toEqual(first)
    const after = await stat(file)
    expect(after.ino).toBe(ino)
    expect(Date.now() - after.mtimeMs).toBeLessThan(60_000)
  })

  it.each<[string, (file: string) => Promise<void>]>([
    ['cut off', (file) => truncate(file, 100_000)],
    ['empty', (file) => truncate(file, 0)],
    ['without a header', (file) => writeFile(file, 'no header at all')],
    [
      'of another layout',
      async (file) => {
        // The name of a tensor, changed in place: a valid file of the same length.
        const bytes = await readFile(file)
        bytes.write('X', bytes.indexOf('conv_in.weight'))
        await writeFile(file, bytes)
      },
    ],
    [
      'of another shape',
      async (file) => {
        const bytes = await readFile(file)
        bytes.write('[3,32,4,3]', bytes.indexOf('[32,4,3,3]'))
        await writeFile(file, bytes)
      },
    ],
  ])('makes a file anew that is %s', async (_name, damage) => {
    const component = await componentOf('unet', tinyB)
    const file = fileOf(await prepare(component))
    const good = await readFile(file)
    await damage(file)
    expect((await readFile(file)).equals(good)).toBe(false)
    await prepare(component)
    expect((await readFile(file)).equals(good)).toBe(true)
    expect(await leftovers()).toEqual([`weights/${basename(file)}`])
  })
})

describe('several processes', () => {
  it('prepare the same component once when they begin together', async () => {
    const startAt = Date.now() + 1500
    const job = { atFirstPiece: 'linger', startAt } as const
    const outcomes = await Promise.all([prepareInProcess(job), prepareInProcess(job), prepareInProcess(job)])
    expect(outcomes.filter(({ wrote }) => wrote)).toHaveLength(1)
    expect(new Set(outcomes.flatMap(({ files }) => files)).size).toBe(1)
    const [file] = outcomes[0].files!
    const component = await componentOf('unet', tinyB)
    expect(await differences((await componentOf('unet', file)).weights, component.weights, same)).toEqual([])
    expect(await leftovers()).toEqual([file.slice(cacheDir.length + 1)])
  })

  it('two callers in one process share the work as well', async () => {
    const component = await componentOf('unet', tinyB)
    const writers = new Set<number>()
    const call = (index: number): Promise<Weights> => prepare(component, { onProgress: () => writers.add(index) })
    const [a, b] = await Promise.all([call(0), call(1)])
    expect(a).toEqual(b)
    expect(writers.size).toBe(1)
  })

  it('survive one that is killed: its scratch is swept and its lock given back', async () => {
    await expect(prepareInProcess({ atFirstPiece: 'die' })).rejects.toMatchObject({ signal: 'SIGKILL' })
    const left = await leftovers()
    expect(left.filter((name) => name.endsWith('.lock'))).toHaveLength(1)
    expect(left.filter((name) => /^scratch\/\d+-[0-9a-f]{8}-[0-9a-f]{12}$/.test(name))).toHaveLength(1)
    expect(left.filter((name) => name.endsWith('.safetensors'))).toEqual([])

    const scratchDir = await createScratch(cacheDir)
    expect(await readdir(join(cacheDir, 'scratch'))).toEqual([scratchDir.slice(join(cacheDir, 'scratch').length + 1)])
    expect((await leftovers()).filter((name) => name.startsWith('weights/'))).toEqual([])
    const { wrote, files } = await prepareInProcess({})
    expect(wrote).toBe(true)
    expect((await leftovers()).filter((name) => name.startsWith('weights/'))).toEqual([
      files![0].slice(cacheDir.length + 1),
    ])
  })
})

describe('a bad disk', () => {
  /** What a disk of `size` bytes has left beside the prepared files. */
  const diskOf = (size: number) => async (folder: string) => {
    const names = (await readdir(folder)).filter((name) => name.endsWith('.safetensors'))
    const sizes = await Promise.all(names.map(async (name) => (await stat(join(folder, name))).size))
    return size - sizes.reduce((sum, bytes) => sum + bytes, 0)
  }
  /** Prepare tiny-b's UNet, of 9.9 MB in fp32, on a disk of `size` bytes. */
  const prepareOnDisk = async (size: number, more: Partial<PrepareOptions> = {}): Promise<Weights> => {
    const component = await componentOf('unet', tinyB)
    const { weights } = await prepareWeights(component, await hashOf(component), options(more), {
      freeBytes: diskOf(size),
    })
    return weights
  }

  it('that stops in the middle (file size limit) is full: one clear error, nothing left', async () => {
    const limited = ['bash', '-c', 'ulimit -f 4096; exec "$@"', 'bash']
    const outcome = await prepareInProcess({}, limited)
    expect(outcome.error).toMatchObject({
      code: 'disk_full',
      message: expect.stringMatching(/no space left in .*weights \(EFBIG\)/),
    })
    expect(outcome.scratch).toEqual([])
    expect(await leftovers()).toEqual([])
  })

  it('filled by somebody else in the middle leaves nothing of ours', async () => {
    const component = await componentOf('unet', tinyB)
    const hash = await hashOf(component)
    // The half-written file, led to the device that is always full.
    await symlink('/dev/full', join(root, 'scratch', fileName(hash)))
    await expect(prepareWeights(component, hash, options())).rejects.toMatchObject({
      code: 'disk_full',
      message: expect.stringMatching(/no space left in .*weights \(ENOSPC\)/),
    })
    expect(await leftovers()).toEqual([])
  })

  it('too small is told before writing, with both numbers', async () => {
    const onProgress = (): void => {
      throw new Error('wrote')
    }
    await expect(prepareOnDisk(6_000_000, { onProgress })).rejects.toMatchObject({
      code: 'disk_full',
      message: expect.stringMatching(/preparing the unet needs 10 MB, .*weights has 6 MB free$/),
    })
    expect(await leftovers()).toEqual([])
  })

  it('too small makes room when the limit would evict anyway', async () => {
    const old = join(cacheDir, 'weights', fileName('aa'.repeat(32)))
    await mkdir(join(cacheDir, 'weights'), { recursive: true })
    await writeFile(old, new Uint8Array(12_000_000))
    await utimes(old, 1000, 1000)
    await expect(prepareOnDisk(20_000_000, { limitBytes: 30_000_000 })).rejects.toMatchObject({ code: 'disk_full' })
    expect(existsSync(old)).toBe(true)
    const file = fileOf(await prepareOnDisk(20_000_000, { limitBytes: 15_000_000 }))
    expect(await leftovers()).toEqual([`weights/${basename(file)}`])
  })

  it('of the kernel, where nothing can be made, is told', async () => {
    const component = await componentOf('unet', tinyB)
    const place = options({ cacheDir: '/proc/sepia' })
    await expect(prepareWeights(component, anyHash, place)).rejects.toMatchObject({ code: 'cache_unwritable' })
  })

  it('where the folder cannot be made is told', async () => {
    const file = join(root, 'file')
    await writeFile(file, '')
    const component = await componentOf('unet', tinyB)
    await expect(prepareWeights(component, anyHash, options({ cacheDir: join(file, 'cache') }))).rejects.toMatchObject({
      code: 'cache_unwritable',
      message: expect.stringContaining(`${join(file, 'cache', 'weights')} (ENOTDIR)`),
    })
  })

  it('that we may not write to is told, when the system keeps us from it', async () => {
    await mkdir(cacheDir)
    await chmod(cacheDir, 0o500)
    // The super-user may write all the same, and then so do we.
    const refusal = await mkdir(join(cacheDir, 'probe')).then(
      () => null,
      (error: NodeJS.ErrnoException) => error.code,
    )
    const component = await componentOf('unet', tinyB)
    const outcome = await prepareWeights(component, await hashOf(component, root), options()).then(
      () => null,
      (error: AppError) => error.message,
    )
    await chmod(cacheDir, 0o700)
    expect(outcome).toBe(
      refusal && `cache: cannot write in ${join(cacheDir, 'weights')} (${refusal}); choose another folder`,
    )
  })

  it.each([
    ['ENOSPC', 'disk_full'],
    ['EDQUOT', 'disk_full'],
    ['EFBIG', 'disk_full'],
    ['EACCES', 'cache_unwritable'],
    ['EPERM', 'cache_unwritable'],
    ['EROFS', 'cache_unwritable'],
  ])('%s means %s', (errno, code) => {
    expect(cacheFault(Object.assign(new Error('from the disk'), { code: errno }), '/c')).toMatchObject({
      code,
      message: expect.stringContaining(`/c (${errno})`),
    })
  })
})

describe('the limit', () => {
  const digit = (index: number): string => `${index}${index}`.repeat(32)

  /** Files of 1000 bytes, each used a day after the one before. */
  async function fill(count: number): Promise<string[]> {
    await mkdir(join(cacheDir, 'weights'), { recursive: true })
    const names = Array.from({ length: count }, (_, index) => fileName(digit(index)))
    for (const [index, name] of names.entries()) {
      await writeFile(join(cacheDir, 'weights', name), new Uint8Array(1000))
      await utimes(join(cacheDir, 'weights', name), 0, index * 86_400)
    }
    return names
  }
  const small = inMemory({ a: { dtype: 'F16', values: new Float16Array(100), shape: [100] } })
  const list = async (): Promise<string[]> => (await readdir(join(cacheDir, 'weights'))).sort()

  it('evicts the least recently used until the total fits', async () => {
    const names = await fill(5)
    const mine = basename(fileOf(await prepare(small)))
    const { size } = await stat(join(cacheDir, 'weights', mine))
    expect(await list()).toEqual([...names, mine].sort())
    await prepare(small, { limitBytes: 3000 + size })
    expect(await list()).toEqual([...names.slice(2), mine].sort())
    await prepare(small, { limitBytes: 2999 + size })
    expect(await list()).toEqual([...names.slice(3), mine].sort())
  })

  it('keeps what this process uses, what was used just now, and what is not its own', async () => {
    const names = await fill(3)
    await writeFile(join(cacheDir, 'weights', 'notes.txt'), 'mine')
    const values = new Float16Array([1])
    const other = fileOf(await prepare(inMemory({ b: { dtype: 'F16', values, shape: [1] } })))
    await utimes(other, 1, 1)
    await utimes(join(cacheDir, 'weights', names[1]), new Date(), new Date())
    const mine = fileOf(await prepare(small, { limitBytes: 0 }))
    expect(await list()).toEqual([names[1], basename(other), basename(mine), 'notes.txt'].sort())
  })

  it('takes a file for evictable again when all who used it have let it go', async () => {
    const values = new Float16Array([1])
    const component = inMemory({ b: { dtype: 'F16', values, shape: [1] } })
    const holds = [await hold(component), await hold(component)]
    const file = fileOf(holds[0].weights)
    const squeeze = async (): Promise<boolean> => {
      await utimes(file, 1, 1)
      await prepare(small, { limitBytes: 0 })
      return existsSync(file)
    }
    expect(await squeeze()).toBe(true)
    holds[0][Symbol.dispose]()
    // Letting go twice takes nothing from the other.
    holds[0][Symbol.dispose]()
    expect(await squeeze()).toBe(true)
    holds[1][Symbol.dispose]()
    expect(await squeeze()).toBe(false)
  })

  it('counts files of older versions', async () => {
    await fill(0)
    const old = join(cacheDir, 'weights', `${digit(1)}-F32-v0.safetensors`)
    await writeFile(old, new Uint8Array(10))
    await utimes(old, 0, 0)
    const mine = fileOf(await prepare(small, { limitBytes: 0 }))
    expect(await list()).toEqual([basename(mine)])
  })
})
