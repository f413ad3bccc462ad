import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { PipelineCache } from '#worker/pipeline-cache.ts'
import { runGenerate } from '#worker/run-generate.ts'
import type { EngineSettings, GenerateTask, Progress } from '#worker/protocol.ts'
import { copyTinyModel } from '../support/model-files.ts'
import { tinyModels } from '../support/tiny-b-single-file.ts'
import { onOpenvino } from '../support/openvino.ts'
import { pictureTask } from '../support/picture-task.ts'

let folder: string
let settings: EngineSettings

beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'sepia-pipelines-'))
  const [cacheDir, scratchDir] = [path.join(folder, 'cache'), path.join(folder, 'scratch')]
  await mkdir(scratchDir)
  settings = {
    device: 'cpu',
    backend: 'onnxruntime',
    precision: 'fp32',
    threads: 1,
    cacheDir,
    cacheLimitBytes: 1e9,
    scratchDir,
  }
})
afterEach(() => rm(folder, { recursive: true, force: true }))

const task = pictureTask({
  prompt: 'a red apple',
  width: 64,
  height: 64,
  numInferenceSteps: 2,
  guidanceScale: 5,
  sampler: 'DDIM',
  seeds: [1],
})

type Run = { loads: string[]; picture: Uint8Array; warnings: readonly string[]; modelHash: string }

async function run(pipelines: PipelineCache, model: string, changes: Partial<GenerateTask> = {}): Promise<Run> {
  const loads: string[] = []
  let picture = new Uint8Array()
  const { modelHash, warnings } = await runGenerate(
    { ...task, ...changes },
    { checkpoint: model, refiner: null, pictures: {}, assets: {} },
    {
      pipelines,
      onProgress: (progress: Progress) => {
        if (progress.phase === 'load') loads.push(progress.component)
      },
      onImage: async (_index, _seed, bytes) => {
        picture = new Uint8Array(bytes)
      },
    },
  )
  return { loads, picture, warnings, modelHash }
}

test('a second task of the same size loads nothing and gives the same bytes', async () => {
  await using pipelines = new PipelineCache(settings)
  const model = path.join(tinyModels, 'tiny-a')
  const first = await run(pipelines, model)
  expect(first.loads).toEqual(['textEncoder', 'textEncoder2', 'unet', 'vae'])
  const second = await run(pipelines, model)
  expect(second.loads).toEqual([])
  expect(second.picture).toEqual(first.picture)
})

test('a process for a single task holds what the task still needs, and makes the same picture', async () => {
  const model = path.join(tinyModels, 'tiny-a')
  await using warm = new PipelineCache(settings)
  await using single = new PipelineCache({ ...settings, singleTask: true })
  const expected = await run(warm, model)
  const { loads, picture } = await run(single, model)
  expect(loads).toEqual(expected.loads)
  expect(picture).toEqual(expected.picture)
  expect(single.loaded.map((key) => key.split(' ')[0])).toEqual(['vaeDecoder'])
})

test('a limit on the process keeps as few networks as it takes', async () => {
  await using pipelines = new PipelineCache({ ...settings, memoryLimitBytes: 1 })
  const model = path.join(tinyModels, 'tiny-a')
  const first = await run(pipelines, model)
  expect(pipelines.loaded.map((key) => key.split(' ')[0])).toEqual(['vaeDecoder'])
  expect((await run(pipelines, model)).loads).toEqual(first.loads)
})

test('another VAE keeps the UNet and the text encoders, and the model has another hash', async () => {
  await using pipelines = new PipelineCache(settings)
  const model = path.join(tinyModels, 'tiny-a')
  const first = await run(pipelines, model)
  const copy = await copyTinyModel('tiny-a')
  const file = path.join(copy, 'vae/diffusion_pytorch_model.safetensors')
  const bytes = await readFile(file)
  bytes[bytes.length - 2] ^= 1
  await writeFile(file, bytes)
  const second = await run(pipelines, copy)
  expect(second.loads).toEqual(['vae'])
  expect(second.modelHash).not.toBe(first.modelHash)
})

test('a model whose files were replaced is opened again', async () => {
  await using pipelines = new PipelineCache(settings)
  const copy = await copyTinyModel('tiny-a')
  const first = await run(pipelines, copy)
  const file = path.join(copy, 'unet/diffusion_pytorch_model.safetensors')
  const bytes = await readFile(file)
  bytes[bytes.length - 2] ^= 1
  await writeFile(`${file}.new`, bytes)
  await copyFile(`${file}.new`, file)
  await rm(`${file}.new`)
  const second = await run(pipelines, copy)
  expect(second.loads).toEqual(['unet'])
  expect(second.modelHash).not.toBe(first.modelHash)
  expect(Buffer.compare(second.picture, first.picture)).not.toBe(0)
})

test('on OpenVINO a longer prompt loads no other UNet, and gets the same picture', async () => {
  const model = path.join(tinyModels, 'tiny-a')
  const prompt = 'a red apple on a wooden table beside a window, '.repeat(10)
  await using pipelines = new PipelineCache({ ...settings, ...onOpenvino })
  const short = await run(pipelines, model)
  expect(short.loads).toContain('unet')
  const long = await run(pipelines, model, { prompt })
  expect(long.loads).not.toContain('unet')
  await using others = new PipelineCache({ ...settings, ...onOpenvino })
  expect(Buffer.compare((await run(others, model, { prompt })).picture, long.picture)).toBe(0)
  expect(Buffer.compare((await run(others, model)).picture, short.picture)).toBe(0)
})

test('when memory is short the least recently used networks go first', async () => {
  let free = Infinity
  await using pipelines = new PipelineCache(settings, { freeBytes: () => free })
  const model = path.join(tinyModels, 'tiny-a')
  await run(pipelines, model)
  expect(pipelines.loaded.map((key) => key.split(' ')[0])).toEqual(['textEncoder', 'textEncoder', 'unet', 'vaeDecoder'])
  await run(pipelines, model, { width: 96 })
  expect(pipelines.loaded).toHaveLength(6)
  free = 0
  const { loads, warnings } = await run(pipelines, model, { height: 320 })
  expect(loads).toEqual(['unet', 'vae'])
  expect(pipelines.loaded.map((key) => key.split(' ')[0])).toEqual(['vaeDecoder'])
  expect(warnings.join()).toContain('memory was short')
})

test('a picture of a single colour is a warning', async () => {
  await using pipelines = new PipelineCache(settings)
  const copy = await copyTinyModel('tiny-a')
  const { editTensors } = await import('../support/model-files.ts')
  await editTensors(path.join(copy, 'vae/diffusion_pytorch_model.safetensors'), (tensors) => {
    for (const name of ['decoder.conv_out.weight', 'decoder.conv_out.bias']) tensors.get(name)!.bytes.fill(0)
  })
  const { warnings } = await run(pipelines, copy)
  expect(warnings).toEqual(['the picture of seed 1 has a single colour'])
})

test('a negative prompt that guidance does not use is a warning', async () => {
  await using pipelines = new PipelineCache(settings)
  const model = path.join(tinyModels, 'tiny-a')
  const unused = await run(pipelines, model, { guidanceScale: 1, negativePrompt: 'green' })
  expect(unused.warnings).toEqual(['the negative prompt has no effect at a cfg of 1, it needs one above 1'])
  expect((await run(pipelines, model, { guidanceScale: 1.5, negativePrompt: 'green' })).warnings).toEqual([])
})

test('an OpenVINO that is there and broken is told with each picture that auto makes without it', async () => {
  const broken = path.join(folder, 'openvino')
  await mkdir(broken)
  await writeFile(path.join(broken, 'libopenvino_c.so.2520'), '')
  await using pipelines = new PipelineCache({
    ...settings,
    backend: 'auto',
    precision: 'auto',
    openvinoFolders: [broken],
  })
  const { warnings } = await run(pipelines, path.join(tinyModels, 'tiny-a'))
  expect(warnings).toEqual([
    expect.stringMatching(
      /^computed on onnxruntime in fp32, because of openvino: \S+ is version 2025\.2\.0, Sepia works with/,
    ),
  ])
})
