import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  availableMemory,
  type BackendReport,
  formatBytes,
  instructionSets,
  renderDoctor,
  runDoctor,
} from '../../src/cli/doctor.ts'

const backend: BackendReport = {
  onnxruntimeVersion: '1.2.3',
  providers: [
    { name: 'cpu', loads: true },
    { name: 'cuda', loads: false, reason: 'no such library' },
  ],
  openvino: { works: true, version: '2026.4.1-1-abc', folder: '/ov', formats: ['FP32', 'BF16'] },
  choice: { backend: 'openvino', precision: 'bf16', reason: 'this CPU computes in bf16' },
}
let root: string
beforeAll(async () => {
  root = await mkdtemp(join(os.tmpdir(), 'doctor-'))
})
afterAll(() => rm(root, { recursive: true }))

describe('runDoctor', () => {
  it('reports this machine', async () => {
    const cacheDir = join(root, 'cache')
    await mkdir(join(cacheDir, 'weights'), { recursive: true })
    await writeFile(join(cacheDir, 'weights', 'a'), new Uint8Array(1500))
    await writeFile(join(cacheDir, 'hashes.json'), new Uint8Array(36))
    const report = await runDoctor({ cacheDir, cacheLimitBytes: 64e9 }, backend)
    expect(report.node).toEqual({ version: process.version, path: process.execPath })
    expect(report.cpu.coresUsable).toBe(os.availableParallelism())
    expect(report.memory.totalBytes).toBe(os.totalmem())
    expect(report.memory.availableBytes).toBeGreaterThan(0)
    expect(report.memory.availableBytes).toBeLessThanOrEqual(report.memory.totalBytes)
    expect(report.cache).toMatchObject({ folder: cacheDir, exists: true, sizeBytes: 1536, limitBytes: 64e9 })
    expect(report.cache.freeDiskBytes).toBeGreaterThan(0)
    expect(report.onnxruntime).toEqual(backend)
  })

  it('reports a cache folder that is not there yet with the disk it will be on, and does not make it', async () => {
    const report = await runDoctor({ cacheDir: join(root, 'not/yet'), cacheLimitBytes: 1 }, backend)
    expect(report.cache).toMatchObject({ exists: false, sizeBytes: 0 })
    expect(report.cache.freeDiskBytes).toBeGreaterThan(0)
    const again = await runDoctor({ cacheDir: join(root, 'not/yet'), cacheLimitBytes: 1 }, backend)
    expect(again.cache.exists).toBe(false)
  })
})

describe('renderDoctor', () => {
  it('has one line a fact', async () => {
    const report = await runDoctor({ cacheDir: root, cacheLimitBytes: 1 }, backend).then((measured) => ({
      ...measured,
      node: { version: 'v24.0.0', path: '/bin/node' },
      system: { platform: 'linux', arch: 'x64', release: '6.1' },
      cpu: { model: 'Some CPU', coresUsable: 2, coresTotal: 8, instructionSets: ['avx2', 'amx_tile'] },
      memory: { totalBytes: 24 * 2 ** 30, availableBytes: 20.25 * 2 ** 30, limitBytes: 8 * 2 ** 30 },
      cache: { folder: '/cache', exists: true, sizeBytes: 1536, limitBytes: 64e9, freeDiskBytes: null },
    }))
    expect(renderDoctor(report).split('\n')).toEqual([
      'Node          v24.0.0 (/bin/node)',
      'System        linux x64, 6.1',
      'CPU           Some CPU',
      'Cores         2 of 8 usable',
      'Instructions  avx2 amx_tile',
      'Memory        20.3 GiB available of 24.0 GiB, limited to 8.00 GiB by its control group',
      'Cache         /cache (1.50 KiB of 59.6 GiB used, free disk unknown)',
      'onnxruntime   1.2.3',
      '  cpu         loads',
      '  cuda        does not load: no such library',
      'OpenVINO      2026.4.1 in /ov, computes in FP32 BF16',
      'Precision     bf16 on openvino: this CPU computes in bf16',
    ])
  })
})

describe("the system's files", () => {
  it('give the instruction sets that matter', () => {
    const x64 =
      'processor\t: 0\nflags\t\t: fpu sse4_2 avx avx2 avx512f avx512_bf16 avx512_vnni amx_int8 rdtscp\nbugs\t:\n'
    expect(instructionSets(x64)).toEqual(['sse4_2', 'avx', 'avx2', 'avx512f', 'avx512_bf16', 'avx512_vnni', 'amx_int8'])
    expect(instructionSets('Features\t: fp asimd crc32 asimddp i8mm bf16 sve\n')).toEqual([
      'asimd',
      'asimddp',
      'i8mm',
      'bf16',
      'sve',
    ])
    expect(instructionSets(null)).toBeNull()
    expect(instructionSets('no such line')).toBeNull()
  })

  it('give the memory that is available', () => {
    expect(availableMemory('MemTotal: 100 kB\nMemFree:  5 kB\nMemAvailable:   24000 kB\n')).toBe(24_576_000)
    expect(availableMemory('MemTotal: 100 kB\n')).toBeNull()
    expect(availableMemory(null)).toBeNull()
  })
})

describe('formatBytes', () => {
  it.each([
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1.00 KiB'],
    [10_200, '9.96 KiB'],
    [150 * 2 ** 20, '150 MiB'],
    [64e9, '59.6 GiB'],
    [2 ** 60, '1024 PiB'],
  ])('%d → %s', (bytes, text) => {
    expect(formatBytes(bytes)).toBe(text)
  })
})
