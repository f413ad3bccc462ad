import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { PassThrough } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { InspectReport } from '#engine/weights/inspect.ts'
import type { InspectResult } from '#worker/protocol.ts'
import { renderInspection } from '../../src/cli/inspect.ts'
import { runCli } from '../../src/cli/program.ts'
import { resolveConfig } from '../../src/config.ts'

const tinyA = fileURLToPath(new URL('../golden/models/tiny-a', import.meta.url))
let folder: string

beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'sepia-test-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

/** `sepia inspect` in this process, with the real engine in its own. */
async function inspect(...argv: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const stdout = new PassThrough({ encoding: 'utf8' })
  const stderr = new PassThrough({ encoding: 'utf8' })
  const terminal = { stdout, stderr, signal: new AbortController().signal }
  const config = resolveConfig({ SEPIA_CACHE: path.join(folder, 'cache') })
  const code = await runCli(['inspect', ...argv], terminal, () => config)
  await sleep(5)
  return { code, stdout: (stdout.read() as string | null) ?? '', stderr: (stderr.read() as string | null) ?? '' }
}

describe('sepia inspect', () => {
  it('prints everything as one JSON object', async () => {
    const { code, stdout, stderr } = await inspect(tinyA, '--json')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const found = JSON.parse(stdout) as InspectReport & InspectResult
    expect(found).toMatchObject({ path: tinyA, layout: 'diffusers', usable: true, kind: 'base', unusable: null })
    expect(found.modelHash).toMatch(/^[0-9a-f]{64}$/)
    expect(Object.keys(found.componentHashes)).toEqual(found.components.map(({ name }) => name))
    expect(readdirSync(path.join(folder, 'cache/scratch'))).toEqual([])
  })

  it('tells a person the same', async () => {
    const { stdout } = await inspect(tinyA)
    const { modelHash } = JSON.parse((await inspect(tinyA, '--json')).stdout) as InspectResult
    expect(stdout).toContain(`\nHash            ${modelHash}\n`)
    expect(stdout).toMatch(/^Usable {10}yes$/m)
    expect(stdout).toMatch(/^Text encoder 2 {2}69497 parameters, F32, 271 KiB$/m)
  })

  it('describes a file that is no model of ours and says why', async () => {
    const file = path.join(folder, 'lora.safetensors')
    const header = JSON.stringify({
      'lora_unet_mid_block_attentions_0_proj_in.lora_down.weight': {
        dtype: 'F16',
        shape: [4, 8],
        data_offsets: [0, 64],
      },
      'lora_unet_mid_block_attentions_0_proj_in.lora_up.weight': {
        dtype: 'F16',
        shape: [8, 4],
        data_offsets: [64, 128],
      },
    })
    const length = Buffer.alloc(8)
    length.writeBigUInt64LE(BigInt(header.length))
    writeFileSync(file, Buffer.concat([length, Buffer.from(header), Buffer.alloc(128)]))
    const { code, stdout } = await inspect(file)
    expect(code).toBe(0)
    expect(stdout).toMatch(/^Is .*LoRA/m)
    expect(stdout).toMatch(/^Usable +no; supported: Stable Diffusion XL$/m)
    expect(stdout).not.toMatch(/^Hash/m)
    expect(JSON.parse((await inspect(file, '--json')).stdout)).toMatchObject({
      usable: false,
      modelHash: null,
      unusable: { code: 'wrong_architecture' },
    })
  })

  it('refuses a damaged file', async () => {
    const file = path.join(folder, 'damaged.safetensors')
    writeFileSync(file, 'not a model')
    const { code, stdout, stderr } = await inspect(file)
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toMatch(/^sepia: [^\n]*damaged\.safetensors[^\n]*\n$/)
  })
})

describe('the text of a report', () => {
  const report: InspectReport = {
    path: '/m.safetensors',
    layout: 'single-file',
    architecture: 'Stable Diffusion XL',
    usable: false,
    kind: null,
    predictionType: 'v_prediction',
    zeroTerminalSnr: true,
    sizeBytes: 6.5 * 2 ** 30,
    parameters: 3.4e9,
    dtypes: { F32: 1e7, F16: 3.39e9 },
    components: [],
    vaeIncluded: null,
    vocabularySize: null,
    missing: Array.from({ length: 12 }, (_, index) => `key.${index}`),
    title: 'A model',
  }
  const unusable = { code: 'missing_tensors', message: 'model /m.safetensors: 12 tensors are missing' } as const

  it('lists what is missing and leaves out what is unknown', () =>
    expect(renderInspection({ report, modelHash: null, componentHashes: {}, unusable })).toBe(
      `File        /m.safetensors
Title       A model
Is          Stable Diffusion XL
Usable      no: model /m.safetensors: 12 tensors are missing
Layout      single file
Size        6.50 GiB
Weights     3.40 billion parameters, F16 over 99 %, F32 below 1 %
Prediction  v_prediction, zero terminal SNR
Missing     12 tensors: key.0, key.1, key.2, key.3, key.4, key.5, key.6, key.7, key.8, key.9, …`,
    ))
})
