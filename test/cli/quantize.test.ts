import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { PassThrough } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { QuantizeResult } from '#worker/protocol.ts'
import { runCli } from '../../src/cli/program.ts'
import { renderQuantization } from '../../src/cli/quantize.ts'
import { resolveConfig } from '../../src/config.ts'
import { tinyRefiner } from '../support/mode-models.ts'
import { openvinoFolder } from '../support/openvino.ts'

const tinyA = fileURLToPath(new URL('../golden/models/tiny-a', import.meta.url))
let folder: string

beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'sepia-test-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

/** `sepia quantize` in this process, with the real engine in its own. */
async function quantize(...argv: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const stdout = new PassThrough({ encoding: 'utf8' })
  const stderr = new PassThrough({ encoding: 'utf8' })
  const terminal = { stdout, stderr, signal: new AbortController().signal }
  const config = resolveConfig({ SEPIA_CACHE: path.join(folder, 'cache'), SEPIA_OPENVINO: openvinoFolder })
  const code = await runCli(['quantize', ...argv], terminal, () => config)
  return { code, stdout: (stdout.read() as string | null) ?? '', stderr: (stderr.read() as string | null) ?? '' }
}

describe('sepia quantize', () => {
  it('rounds the weights, and measures nothing where onnxruntime finds the ranges itself', async () => {
    const { code, stdout } = await quantize(tinyA, '--backend', 'onnxruntime', '--json')
    expect(code).toBe(0)
    const report = JSON.parse(stdout) as QuantizeResult
    expect(report).toMatchObject({ backend: 'onnxruntime', outputErrors: null })
    expect(report.layers.every(({ int8, error }) => int8 && error === undefined)).toBe(true)
  })

  it("measures a refiner's layers on OpenVINO, and tells those with the largest errors", async () => {
    const { code, stdout } = await quantize(tinyRefiner, '--backend', 'openvino')
    expect(code).toBe(0)
    expect(stdout).toMatch(/^UNet {5}[0-9a-f]{64}\nBackend {2}openvino\nLayers {3}\d+ in int8, \d+ left as they are/)
    expect(stdout).toMatch(/\nError {4}of the whole network \d+\.\d\d % at t=\d+/)
    expect(stdout).toMatch(/\d\.\d\d % {2}(?:norm|smoothing|min-max|left as it is) +\S+\.\S+/)
  })

  it('tells a processor without VNNI', () => {
    const report: QuantizeResult = {
      backend: 'onnxruntime',
      network: 'a'.repeat(64),
      sourceBytes: 4_000_000,
      roundedBytes: 1_000_000,
      weightLimit: 64,
      layers: [{ path: 'm', int8: true }],
      outputErrors: null,
      warnings: [],
    }
    expect(renderQuantization(report)).toContain('weights of at most 64: this CPU has no VNNI')
    expect(renderQuantization({ ...report, weightLimit: 127 })).not.toContain('VNNI')
  })

  it('refuses what it cannot do', async () => {
    expect(await quantize('nowhere')).toMatchObject({ code: 1, stderr: expect.stringContaining('nowhere') as string })
    expect((await quantize(tinyA, '--backend', 'tensorrt')).code).toBe(2)
    const { code, stderr } = await quantize(tinyA, '--backend', 'onnxruntime', '--device', 'webgpu')
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: 'sepia: precision: int8 runs on the cpu alone, not on webgpu\n',
    })
  })
})
