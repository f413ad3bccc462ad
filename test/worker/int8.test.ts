// Whole pictures in int8 on both backends, against the same pictures in fp32.
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { backendNames, type BackendName, type Precision } from '#engine/backend.ts'
import { PipelineCache } from '#worker/pipeline-cache.ts'
import type { GenerateTask, Progress } from '#worker/protocol.ts'
import { quantizeModel } from '#worker/quantize-model.ts'
import { runGenerate } from '#worker/run-generate.ts'
import { decodePicture } from '#image/decode-picture.ts'
import { goldenFolder } from '../support/golden.ts'
import { tinyRefiner } from '../support/mode-models.ts'
import { openvinoFolder } from '../support/openvino.ts'
import { temporaryFolder } from '../support/temporary-folder.ts'
import { pictureTask } from '../support/picture-task.ts'

const root = path.join(import.meta.dirname, '../..')
const pocket = path.join(root, 'test/golden/models/pocket')
const tinyA = path.join(goldenFolder, 'models/tiny-a')
const tinyB = path.join(goldenFolder, 'models/tiny-b')

const task = pictureTask({
  prompt: 'a red apple on a table',
  width: 192,
  height: 192,
  numInferenceSteps: 8,
  guidanceScale: 7,
  sampler: 'DDIM',
  seeds: [1],
})

async function cacheIn(place: string, backend: BackendName, precision: Precision): Promise<PipelineCache> {
  const [cacheDir, scratchDir] = [path.join(place, 'cache'), path.join(place, 'scratch')]
  await mkdir(scratchDir, { recursive: true })
  return new PipelineCache({
    device: 'cpu',
    backend,
    precision,
    threads: 2,
    cacheDir,
    cacheLimitBytes: 1e9,
    scratchDir,
    openvinoFolders: [openvinoFolder],
  })
}

type Made = { readonly pixels: Uint8Array; readonly png: Uint8Array; readonly phases: ReadonlySet<string> }

async function make(
  pipelines: PipelineCache,
  model: string,
  changes: Partial<GenerateTask> = {},
  files: { refiner?: string; assets?: Record<string, string> } = {},
): Promise<Made> {
  let png = new Uint8Array()
  const phases = new Set<string>()
  await runGenerate(
    { ...task, ...changes },
    { checkpoint: model, refiner: files.refiner ?? null, pictures: {}, assets: files.assets ?? {} },
    {
      pipelines,
      onProgress: (progress: Progress) => phases.add(progress.phase),
      onImage: async (_index, _seed, bytes) => {
        png = new Uint8Array(bytes)
      },
    },
  )
  return { pixels: (await decodePicture(Buffer.from(png), 'picture')).data, png, phases }
}

/** Peak signal-to-noise ratio in dB. */
function psnr(a: Uint8Array, b: Uint8Array): number {
  expect(a.length).toBe(b.length)
  const sum = a.reduce((total, value, index) => total + (value - b[index]) ** 2, 0)
  return 10 * Math.log10(255 ** 2 / (sum / a.length))
}

/** What pocket's picture in int8 has at least, in dB. */
const nearness = { onnxruntime: 38, openvino: 33 } as const

describe.each(backendNames)('%s', (backend) => {
  test('a picture at cfg 7 is near that of fp32, and says how it was made', async () => {
    const place = await temporaryFolder('int8')
    await using exact = await cacheIn(place, 'onnxruntime', 'fp32')
    const expected = await make(exact, pocket)
    await using pipelines = await cacheIn(place, backend, 'int8')
    const first = await make(pipelines, pocket)
    const reached = psnr(first.pixels, expected.pixels)
    expect(reached).toBeGreaterThan(nearness[backend])
    expect(reached).toBeLessThan(70)
    expect(Buffer.from(first.png).includes('int8')).toBe(true)
    expect(first.phases.has('calibrate')).toBe(backend === 'openvino')
    const second = await make(pipelines, pocket)
    expect(second.phases.has('calibrate')).toBe(false)
    expect(second.phases.has('prepare')).toBe(false)
    expect(Buffer.compare(second.png, first.png)).toBe(0)
    const compiled = async (): Promise<string[]> =>
      (await readdir(path.join(place, 'cache/weights'))).filter((name) => name.endsWith('.blob'))
    const kept = await compiled()
    expect(kept).toHaveLength(backend === 'openvino' ? 1 : 0)
    await using fresh = await cacheIn(place, backend, 'int8')
    expect(Buffer.compare((await make(fresh, pocket)).png, first.png)).toBe(0)
    expect(await compiled()).toEqual(kept)
  })

  test('with a refiner, whose UNet is rounded like the other', async () => {
    const place = await temporaryFolder('int8')
    const changes = { refiner: { denoisingEnd: 0.5 }, width: 64, height: 64 }
    await using exact = await cacheIn(place, 'onnxruntime', 'fp32')
    const expected = await make(exact, tinyA, changes, { refiner: tinyRefiner })
    await using pipelines = await cacheIn(place, backend, 'int8')
    const picture = await make(pipelines, tinyA, changes, { refiner: tinyRefiner })
    expect(psnr(picture.pixels, expected.pixels)).toBeGreaterThan(25)
    const rounded = (await readdir(path.join(place, 'cache/weights'))).filter((name) => name.includes('-I8-'))
    expect(rounded).toHaveLength(2)
  })
})

/** Gains over the picture without LoRAs, in dB; in fp32 the two backends make the same picture. */
const loraCases = [
  ['onnxruntime', 'int8', 6],
  ['openvino', 'int8', 6],
  ['openvino', 'fp32', 30],
] as const

test.each(loraCases)('LoRAs, of which some change weights: %s in %s', async (backend, precision, gain) => {
  const place = await temporaryFolder('int8')
  // Linears and convolutions of low rank, and Kronecker products.
  const names = ['b-lora', 'b-lokr']
  const assets = Object.fromEntries(
    names.map((name, index) => [String(index).repeat(64), path.join(goldenFolder, `lora/${name}.safetensors`)]),
  )
  const loras = Object.keys(assets).map((asset) => ({ asset, scale: 0.7 }))
  const changes = { width: 64, height: 64, loras }
  await using exact = await cacheIn(place, 'onnxruntime', 'fp32')
  const expected = await make(exact, tinyB, changes, { assets })
  const plain = await make(exact, tinyB, { ...changes, loras: [] })
  await using pipelines = await cacheIn(place, backend, precision)
  const picture = await make(pipelines, tinyB, changes, { assets })
  const before = psnr(plain.pixels, expected.pixels)
  expect(psnr(picture.pixels, expected.pixels)).toBeGreaterThan(before + gain)
})

test('a calibration that is cut off is made anew, and its report tells of every layer', async () => {
  const place = await temporaryFolder('int8')
  await using pipelines = await cacheIn(place, 'openvino', 'int8')
  const report = await quantizeModel(tinyA, pipelines, () => undefined)
  expect(report.layers.length).toBeGreaterThan(30)
  expect(report.layers.every(({ error }) => error !== undefined && error > 1e-4 && error < 0.2)).toBe(true)
  expect(report.outputErrors!.length).toBeGreaterThan(3)
  expect(Math.max(...report.outputErrors!.map(({ error }) => error))).toBeLessThan(0.1)
  expect(report.roundedBytes).toBeLessThan(report.sourceBytes)
  const folder = path.join(place, 'cache/calibrations')
  const [name] = await readdir(folder)
  const file = path.join(folder, name)
  const whole = await readFile(file, 'utf8')
  await writeFile(file, whole.slice(0, 1000))
  const again = await quantizeModel(tinyA, pipelines, () => undefined)
  expect(again.outputErrors).toEqual(report.outputErrors)
  expect(report.warnings).toEqual([])
  expect(again.warnings).toEqual([`int8: ${file} was damaged, and the UNet was calibrated again`])
  expect(await readFile(file, 'utf8')).toBe(whole)
})
