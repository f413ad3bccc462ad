import { closeSync, openSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import koffi from 'koffi'
import { describe, expect, test } from 'vitest'
import type { Session } from '#engine/backend.ts'
import { mapFile } from '#engine/backends/mapped-file.ts'
import { releaseMappedPages, releasingMapping, releasingPages } from '#engine/backends/mapped-pages.ts'
import { onnxruntimeBackend } from '#engine/backends/onnxruntime.ts'
import { bindWeights, externalDataRoot } from '#engine/onnx/bind-weights.ts'
import { GraphBuilder } from '#engine/onnx/graph-builder.ts'
import { linear } from '#engine/onnx/layers.ts'
import { TorchGenerator } from '#tensor/random.ts'
import { temporaryFolder } from '../support/temporary-folder.ts'

const size = 2048
const bytes = size * size * 4
const weights = new TorchGenerator(2).randn([size, size]).data
const x = new TorchGenerator(1).randn([1, size])

describe.runIf(process.platform === 'linux')('pages of mapped weights', () => {
  test('are given back, and read again when they are wanted', async () => {
    const file = await weightsFile()
    const mapped = map(file)
    expect(sumOf(mapped)).toBe(sumOf(weights))
    expect(residentBytes(file)).toBe(bytes)

    expect(releaseMappedPages(new Set([file]))).toBe(bytes)
    expect(residentBytes(file)).toBe(0)

    expect(sumOf(mapped)).toBe(sumOf(weights))
    expect(residentBytes(file)).toBe(bytes)
  })

  test('of other files stay', async () => {
    const file = await weightsFile()
    expect(sumOf(map(file))).not.toBe(0)
    expect(releaseMappedPages(new Set([`${file}.other`]))).toBe(0)
    expect(residentBytes(file)).toBe(bytes)
  })

  test('stay where they may have been written to, as under onnxruntime', async () => {
    const file = await weightsFile()
    await using session = await overMappedWeights(file)
    const before = await session.run({ x })
    expect(releaseMappedPages(new Set([file]))).toBe(0)
    expect(residentBytes(file)).toBeGreaterThan(bytes * 0.9)
    expect((await session.run({ x }))['y']).toEqual(before['y'])
  })

  test('are given back while work reads the one mapping that is told', async () => {
    const file = await weightsFile()
    using mapped = mapFile(file)
    const values = new Float32Array(koffi.view(mapped.address, mapped.length))
    await releasingMapping(mapped, async () => {
      expect(sumOf(values)).toBe(sumOf(weights))
      while (residentBytes(file) > 0) await nextTurn()
      expect(sumOf(values)).toBe(sumOf(weights))
    })
    expect(residentBytes(file)).toBe(0)
  })

  test('are given back while work reads them, by whatever name its file goes, and when it fails', async () => {
    const file = await weightsFile()
    const link = path.join(path.dirname(file), 'link.safetensors')
    symlinkSync(file, link)
    const mapped = map(file)
    await releasingPages([link], async () => {
      expect(sumOf(mapped)).not.toBe(0)
      while (residentBytes(file) > 0) await nextTurn()
      expect(sumOf(mapped)).not.toBe(0)
    })
    expect(residentBytes(file)).toBe(0)

    const failing = releasingPages([file], async () => {
      expect(sumOf(mapped)).not.toBe(0)
      throw new Error('as expected')
    })
    await expect(failing).rejects.toThrow('as expected')
    expect(residentBytes(file)).toBe(0)
  })
})

async function weightsFile(): Promise<string> {
  const file = path.join(await temporaryFolder('mapped'), 'weights.safetensors')
  writeFileSync(file, weights)
  return file
}

/** A file mapped as OpenVINO does it: private, and to be read only. It stays mapped until this process ends. */
function map(file: string): Float32Array {
  const program = koffi.load(null)
  const mmap = program.func(
    'void* mmap(void* at, size_t length, int protection, int flags, int descriptor, int64_t offset)',
  ) as (at: null, length: number, protection: number, flags: number, descriptor: number, offset: number) => unknown
  const descriptor = openSync(file, 'r')
  const [readOnly, mapPrivate] = [1, 2]
  const address = mmap(null, bytes, readOnly, mapPrivate, descriptor, 0)
  closeSync(descriptor)
  return new Float32Array(koffi.view(address, bytes))
}

function sumOf(values: Float32Array): number {
  return values.reduce((sum, value) => sum + value, 0)
}

/** A session that maps its weights: onnxruntime's, which has them in place where it is told to. */
async function overMappedWeights(file: string): Promise<Session> {
  const g = new GraphBuilder('mapped', 'fp32')
  g.output('y', linear(g, g.input('x', [1, size]), 'layer', size, { bias: false }))
  const stored = { dtype: 'F32', shape: [size, size], source: { file, offset: 0, length: bytes } } as const
  const backend = onnxruntimeBackend({ device: 'cpu', threads: 1, externalDataRoot: externalDataRoot(file) })
  const options = { weightsInPlace: true, keepActivations: false, arithmetic: 'graph' } as const
  return await backend.create(bindWeights(g.finish(), new Map([['layer.weight', stored]])), options)
}

/** Bytes of this process's memory that are pages of a file, from /proc. */
function residentBytes(file: string): number {
  let total = 0
  let counts = false
  for (const line of readFileSync('/proc/self/smaps', 'utf8').split('\n')) {
    if (/^[0-9a-f]+-[0-9a-f]+ /.test(line)) counts = line.endsWith(` ${file}`)
    const match = counts ? /^Rss:\s+(\d+) kB/.exec(line) : null
    if (match) total += Number(match[1]) * 1024
  }
  return total
}
