// What OpenVINO does beyond computing the same as onnxruntime: cancelling, leaving the thread free, and failing in words.
import { execFile } from 'node:child_process'
import { copyFileSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openvinoBackend, openvinoCapabilities, openvinoDevices } from '#engine/backends/openvino.ts'
import { loadOpenvino } from '#engine/backends/openvino-library.ts'
import { findOpenvino, manifestName, pythonFolders } from '#engine/backends/openvino-places.ts'
import { bindWeights } from '#engine/onnx/bind-weights.ts'
import { GraphBuilder } from '#engine/onnx/graph-builder.ts'
import type { StoredTensor } from '#engine/weights/checkpoint.ts'
import { relativeError } from '../support/golden.ts'
import { hasBf16, openvinoFolder, testBackend, testOpenvino } from '../support/openvino.ts'

const options = { weightsInPlace: true, keepActivations: true, arithmetic: 'graph' } as const
let folder: string
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'sepia-openvino-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

/** x·W·W·…, (rows, size) → (rows, size). */
function chain(
  rows: number | string,
  size: number,
  weight: StoredTensor,
  count: number,
  [from, to]: readonly [string, string] = ['x', 'y'],
): Uint8Array {
  const g = new GraphBuilder('chain', 'fp32')
  const w = g.weight('w', [size, size])
  let y = g.input(from, [rows, size])
  for (let index = 0; index < count; index++) y = g.node('MatMul', [y, w], y.shape)
  g.output(to, y)
  return bindWeights(g.finish(), new Map([['w', weight]]))
}

/** A matrix that keeps sizes about as they are, of values that do not cancel out. */
function inMemory(size: number): StoredTensor {
  const data = Float32Array.from({ length: size * size }, (_, index) => ((index * 7919) % 1009) / 1009 / (size / 2))
  return { dtype: 'F32', shape: [size, size], source: { bytes: new Uint8Array(data.buffer) } }
}

const input = (rows: number, size: number) => ({
  x: { shape: [rows, size], data: Float32Array.from({ length: rows * size }, (_, index) => 1 + Math.cos(index)) },
})

describe('a session', () => {
  it('stops within a tenth of a second when it is cancelled, leaves the thread free meanwhile, and runs again', async () => {
    const size = 512
    const backend = testBackend('openvino')
    await using session = await backend.create(chain(size, size, inMemory(size), 1), options)
    const before = await session.run(input(size, size))
    await using long = await backend.create(chain(size, size, inMemory(size), 500), options)
    let ticks = 0
    const timer = setInterval(() => ticks++, 1)
    const run = long.run(input(size, size))
    await sleep(30)
    expect(ticks).toBeGreaterThan(3)
    clearInterval(timer)
    const cancelledMs = performance.now()
    expect(long.cancel()).toBe(true)
    await expect(run).rejects.toMatchObject({ code: 'cancelled' })
    expect(performance.now() - cancelledMs).toBeLessThan(100)
    expect((await long.run(input(size, size)))['y'].data.every(Number.isFinite)).toBe(true)
    expect(await session.run(input(size, size))).toEqual(before)
    expect(session.cancel()).toBe(true)
    expect(await session.run(input(size, size))).toEqual(before)
  })

  it('runs several graphs in their order, and is cancelled in each of them', async () => {
    const size = 512
    const weight = inMemory(size)
    const backend = testBackend('openvino')
    await using whole = await backend.create(chain(size, size, weight, 3), options)
    const { y } = await whole.run(input(size, size))
    const models = [chain(size, size, weight, 1, ['x', 'a']), chain(size, size, weight, 2, ['a', 'y'])]
    await using session = await backend.createChain!(models, options)
    for (let time = 0; time < 2; time++) {
      const results = await session.run(input(size, size))
      expect(Object.keys(results)).toEqual(['y'])
      expect(relativeError(results['y'], y)).toBeLessThan(1e-6)
    }
    for (const counts of [
      [500, 1],
      [1, 500],
    ]) {
      const long = [chain(size, size, weight, counts[0], ['x', 'a']), chain(size, size, weight, counts[1], ['a', 'y'])]
      await using slow = await backend.createChain!(long, options)
      const run = slow.run(input(size, size))
      await sleep(100)
      const cancelledMs = performance.now()
      expect(slow.cancel()).toBe(true)
      await expect(run).rejects.toMatchObject({ code: 'cancelled' })
      expect(performance.now() - cancelledMs).toBeLessThan(100)
      expect((await slow.run(input(size, size)))['y'].data.every(Number.isFinite)).toBe(true)
    }
  })

  it('refuses graphs that do not fit each other, and feeds that nothing reads', async () => {
    const backend = testBackend('openvino')
    const weight = inMemory(8)
    const last = chain(1, 8, weight, 1, ['a', 'y'])
    await expect(backend.createChain!([chain('rows', 8, weight, 1, ['x', 'a']), last], options)).rejects.toMatchObject({
      code: 'internal',
      message: 'session: the size of "a" is not known before a run',
    })
    await expect(backend.createChain!([chain(2, 8, weight, 1, ['x', 'a']), last], options)).rejects.toMatchObject({
      code: 'backend_failed',
      message: expect.stringMatching(/^a network cannot be loaded: /),
    })
    await expect(backend.createChain!([new Uint8Array([8, 1, 58, 0]), last], options)).rejects.toMatchObject({
      code: 'backend_failed',
    })
    await using session = await backend.createChain!([chain(1, 8, weight, 1, ['x', 'a']), last], options)
    await expect(session.run({ ...input(1, 8), b: input(1, 8)['x'] })).rejects.toMatchObject({
      code: 'internal',
      message: 'session: nothing reads "b"',
    })
    expect((await session.run(input(1, 8)))['y'].data.every(Number.isFinite)).toBe(true)
  })

  it('computes in bf16 where it is asked to and the CPU can', async () => {
    const size = 256
    const model = chain(4, size, inMemory(size), 2)
    await using exact = await testBackend('openvino').create(model, options)
    const { y } = await exact.run(input(4, size))
    if (!hasBf16()) return console.warn('not run here: this CPU has no bf16')
    await using rounded = await testBackend('openvino').create(model, { ...options, arithmetic: 'bf16' })
    const error = relativeError((await rounded.run(input(4, size)))['y'], y)
    expect(error).toBeGreaterThan(1e-4)
    expect(error).toBeLessThan(1e-2)
  })

  it('refuses in words of the library', async () => {
    const backend = testBackend('openvino')
    await expect(backend.create(new Uint8Array([8, 1, 58, 0]), options)).rejects.toMatchObject({
      code: 'backend_failed',
    })
    const lost: StoredTensor = { ...inMemory(8), source: { file: path.join(folder, 'lost'), offset: 0, length: 256 } }
    await expect(backend.create(chain(1, 8, lost, 1), options)).rejects.toMatchObject({
      code: 'backend_failed',
      message: expect.stringMatching(/^a network cannot be loaded: .*external data/),
    })
    const session = await backend.create(chain(1, 8, inMemory(8), 1), options)
    await expect(session.run(input(2, 8))).rejects.toMatchObject({
      code: 'backend_failed',
      message: expect.stringMatching(/^a network failed to run: [^\n]*shape/),
    })
    await session.close()
    await expect(session.run(input(1, 8))).rejects.toMatchObject({ code: 'internal' })
  })

  it.runIf(process.platform === 'linux')('tells that memory ran out while it compiles', async () => {
    const script = `
      import { execFileSync } from 'node:child_process'
      import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
      const { testBackend } = await import('./test/support/openvino.ts')
      const { GraphBuilder } = await import('#engine/onnx/graph-builder.ts')
      const { bindWeights } = await import('#engine/onnx/bind-weights.ts')
      const [file] = process.argv.slice(1)
      const size = 16384
      writeFileSync(file, '')
      truncateSync(file, size * size * 4)
      const g = new GraphBuilder('large', 'fp32')
      g.output('y', g.node('MatMul', [g.input('x', [64, size]), g.weight('w', [size, size])], [64, size]))
      const source = { file, offset: 0, length: size * size * 4 }
      const model = bindWeights(g.finish(), new Map([['w', { dtype: 'F32', shape: [size, size], source }]]))
      const backend = testBackend('openvino')
      const used = Number(/VmData:\\s*(\\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]) * 1024
      execFileSync('prlimit', ['--pid', String(process.pid), '--data=' + (used + 400e6)])
      const error = await backend.create(model, ${JSON.stringify(options)}).catch((error) => error)
      process.stdout.write(error.code + ' ' + error.message)`
    const argv = ['--input-type=module', '-e', script, path.join(folder, 'large')]
    const { stdout } = await promisify(execFile)(process.execPath, argv, {
      cwd: path.resolve(openvinoFolder, '../../../..'),
    })
    expect(stdout).toMatch(/^out_of_memory a network cannot be loaded: /)
  })
})

describe('the library', () => {
  it('is found in the first folder that has it, and tells its version and devices', () => {
    const place = findOpenvino([folder, openvinoFolder], [])
    expect(place).toEqual(testOpenvino())
    expect(openvinoDevices(place!)).toContain('CPU')
    expect(openvinoCapabilities(place!, 'cpu')).toMatchObject({ version: expect.stringMatching(/^2026\.4\.\d/) })
    expect(findOpenvino([folder], [])).toBeNull()
    expect(findOpenvino([], [openvinoFolder])).toEqual(place)
  })

  it('is found in a Python environment', () => {
    expect(pythonFolders('/env', '/home/me')[0]).toBe('/env/Lib/site-packages/openvino/libs')
  })

  it('of another release is refused by its name and version', () => {
    const old = mkdtempSync(path.join(folder, 'old-'))
    writeFileSync(path.join(old, 'libopenvino_c.so.2520'), '')
    expect(() => loadOpenvino(findOpenvino([old], [])!)).toThrow(
      `openvino: ${old}/libopenvino_c.so.2520 is version 2025.2.0, Sepia works with 2026.4; "sepia backend install openvino" fetches it`,
    )
  })

  it('that is none is refused', async () => {
    const other = mkdtempSync(path.join(folder, 'other-'))
    writeFileSync(path.join(other, 'libopenvino_c.so'), 'not a library')
    expect(() => loadOpenvino(findOpenvino([other], [])!)).toThrow(/^openvino: \S+libopenvino_c\.so does not load: /)
    const tbb = (await readdir(openvinoFolder)).find((name) => /^(lib)?tbb\d*\.|^libtbb\.so/.test(name))!
    const third = mkdtempSync(path.join(folder, 'third-'))
    copyFileSync(path.join(openvinoFolder, tbb), path.join(third, 'libopenvino_c.so'))
    expect(() => loadOpenvino(findOpenvino([third], [])!)).toThrow(/libopenvino_c\.so is not OpenVINO 2026\.4: /)
  })

  it('that was unpacked by half is refused', async () => {
    const half = mkdtempSync(path.join(folder, 'half-'))
    for (const name of await readdir(openvinoFolder))
      if (name === manifestName || name === 'licenses')
        symlinkSync(path.join(openvinoFolder, name), path.join(half, name))
    expect(() => findOpenvino([half], [])).toThrow(/is not whole, \S+ is missing or cut short; "sepia backend install/)
    writeFileSync(path.join(half, 'cut'), 'whole')
    rmSync(path.join(half, manifestName))
    const files = [{ name: 'cut', sizeBytes: 5 }]
    writeFileSync(path.join(half, manifestName), JSON.stringify({ version: '2026.4.1', wheel: '', files }))
    expect(findOpenvino([half], [])).toBeNull()
    truncateSync(path.join(half, 'cut'), 4)
    expect(() => findOpenvino([half], [])).toThrow('cut is missing or cut short')
    writeFileSync(path.join(half, manifestName), '{')
    expect(() => findOpenvino([half], [])).toThrow(`${manifestName} cannot be read`)
  })

  it('tells which device does not work here', () => {
    const place = testOpenvino()
    const missing = openvinoDevices(place).includes('NPU') ? null : 'npu'
    if (missing === null) return
    const backend = () => openvinoBackend({ place, device: missing, threads: 1, externalDataRoot: '/' })
    expect(backend).toThrow(/^device: OpenVINO in \S+ cannot use NPU here: /)
  })
})
