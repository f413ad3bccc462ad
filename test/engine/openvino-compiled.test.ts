// Compiled networks that are kept: read instead of compiled, made anew where they are damaged or another machine's.
import { mkdir, readdir, readFile, stat, truncate } from 'node:fs/promises'
import path from 'node:path'
import { expect, it } from 'vitest'
import { openvinoBackend } from '#engine/backends/openvino.ts'
import { openCompiled } from '#engine/backends/openvino-compiled.ts'
import { loadOpenvino } from '#engine/backends/openvino-library.ts'
import { bindWeights } from '#engine/onnx/bind-weights.ts'
import { GraphBuilder } from '#engine/onnx/graph-builder.ts'
import type { CacheOptions } from '#engine/weights/kept-file.ts'
import { hasBf16, testOpenvino } from '../support/openvino.ts'
import { temporaryFolder } from '../support/temporary-folder.ts'

const options = { weightsInPlace: true, keepActivations: true, arithmetic: 'graph', keptBytes: 1 << 20 } as const
const size = 64
const x = { shape: [2, size], data: Float32Array.from({ length: 2 * size }, (_, index) => Math.sin(index)) }

/** x·W, (2, size) → (2, size). */
function model(scale: number): Uint8Array {
  const g = new GraphBuilder('linear', 'fp32')
  const w = g.weight('w', [size, size])
  g.output('y', g.node('MatMul', [g.input('x', [2, size]), w], [2, size]))
  const data = Float32Array.from({ length: size * size }, (_, index) => scale * Math.cos(index))
  const stored = { dtype: 'F32', shape: [size, size], source: { bytes: new Uint8Array(data.buffer) } } as const
  return bindWeights(g.finish(), new Map([['w', stored]]))
}

async function newCache(): Promise<CacheOptions & { readonly kept: () => Promise<string[]> }> {
  const cacheDir = await temporaryFolder('compiled')
  const scratchDir = path.join(cacheDir, 'scratch')
  await mkdir(scratchDir)
  const folder = path.join(cacheDir, 'weights')
  const kept = async (): Promise<string[]> => (await readdir(folder)).map((name) => path.join(folder, name)).sort()
  return { cacheDir, scratchDir, limitBytes: 1e9, kept }
}

it('computes the same from the file that it keeps', async () => {
  const cache = await newCache()
  const settings = { place: testOpenvino(), device: 'cpu', threads: 2, externalDataRoot: '/' } as const
  await using plain = await openvinoBackend(settings).create(model(1), options)
  const expected = await plain.run({ x })
  for (const _ of [1, 2]) {
    await using session = await openvinoBackend({ ...settings, cache }).create(model(1), options)
    expect(await session.run({ x })).toEqual(expected)
  }
  expect(await cache.kept()).toEqual([expect.stringMatching(/\/[0-9a-f]{64}-openvino-v1\.blob$/)])
  await using other = await openvinoBackend({ ...settings, cache }).create(model(2), options)
  expect((await other.run({ x }))['y'].data).not.toEqual(expected['y'].data)
  expect(await cache.kept()).toHaveLength(2)
  expect(await readdir(cache.scratchDir)).toEqual([])
})

it.runIf(process.platform === 'linux' && hasBf16())(
  'gives pages back that a run has read, once sizes are known',
  async () => {
    const width = 1024
    const g = new GraphBuilder('linear', 'bf16')
    g.output(
      'y',
      g.node(
        'MatMul',
        [g.input('x', ['rows', width]), g.transpose(g.weight('w', [width, width]), [1, 0])],
        [-1, width],
      ),
    )
    const data = Uint16Array.from({ length: width * width }, (_, index) => 0x3c00 + ((index * 37) % 512))
    const stored = { dtype: 'BF16', shape: [width, width], source: { bytes: new Uint8Array(data.buffer) } } as const
    const onnx = bindWeights(g.finish(), new Map([['w', stored]]))
    const cache = await newCache()
    const settings = { place: testOpenvino(), device: 'cpu', threads: 2, externalDataRoot: '/', cache } as const
    await using session = await openvinoBackend(settings).create(onnx, {
      ...options,
      arithmetic: 'bf16',
      keptBytes: 4 << 20,
    })
    const [file] = await cache.kept()
    const results: Float32Array[] = []
    for (const rows of [3, 5, 3]) {
      const input = { shape: [rows, width], data: new Float32Array(rows * width).fill(0.5) }
      results.push((await session.run({ x: input }))['y'].data)
      const maps = (await readFile('/proc/self/smaps', 'utf8')).split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)
      const held = maps.filter((map) => map.includes(file)).map((map) => Number(/^Rss:\s+(\d+) kB/m.exec(map)![1]))
      expect(held).toEqual([0])
    }
    expect(results[2]).toEqual(results[0])
  },
)

it('compiles again what is damaged or was compiled otherwise, and nothing else', async () => {
  const cache = await newCache()
  const library = loadOpenvino(testOpenvino())
  const core = library.createCore()
  let compilations = 0
  const open = async (properties: Record<string, string>, onnx = model(1)): Promise<number> => {
    const order = { library, model: onnx, properties, cache, sizeBytes: 1 << 20 }
    const before = compilations
    using _opened = await openCompiled(order, async () => {
      compilations++
      return await library.compile(core, library.readModel(core, onnx), 'CPU', properties)
    })
    return compilations - before
  }
  const one = { INFERENCE_NUM_THREADS: '1' }
  expect(await open(one)).toBe(1)
  expect(await open(one)).toBe(0)
  expect(await open({ INFERENCE_NUM_THREADS: '2' })).toBe(1)
  expect(await open(one, model(3))).toBe(1)
  for (const file of await cache.kept()) await truncate(file, (await stat(file)).size - 1)
  expect(await open(one)).toBe(1)
  for (const file of await cache.kept()) await truncate(file, 10)
  expect(await open(one)).toBe(1)
  expect(await open(one)).toBe(0)
  library.freeCore(core)
})

it('computes all the same where the disk has no room to keep it', async () => {
  const cache = await newCache()
  const backend = openvinoBackend({ place: testOpenvino(), device: 'cpu', threads: 2, externalDataRoot: '/', cache })
  await using session = await backend.create(model(1), { ...options, keptBytes: 2 ** 60 })
  expect((await session.run({ x }))['y'].data.every(Number.isFinite)).toBe(true)
  expect(await cache.kept()).toEqual([])
})

it('leaves nothing behind where compiling fails or the disk is full', async () => {
  const cache = await newCache()
  const library = loadOpenvino(testOpenvino())
  const order = { library, model: model(1), properties: {}, cache, sizeBytes: 1 << 20 }
  const failing = (): Promise<never> => Promise.reject(new Error('no'))
  await expect(openCompiled(order, failing)).rejects.toThrow('no')
  await expect(openCompiled({ ...order, sizeBytes: 2 ** 60 }, failing)).rejects.toMatchObject({
    code: 'disk_full',
    message: expect.stringMatching(/^cache: keeping a compiled network needs \d+ MB, /),
  })
  expect(await cache.kept()).toEqual([])
  expect(await readdir(cache.scratchDir)).toEqual([])
})
