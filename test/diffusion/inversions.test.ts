// Prompts with textual inversions against diffusers (tools/reference/inversions.py).
import { mkdirSync, mkdtempSync, readFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { encodePrompts } from '#diffusion/encode-prompt.ts'
import { convertTorchFile, openTorchFile } from '#tensor/torch-file.ts'
import type { Tensor } from '#tensor/tensor.ts'
import { PipelineCache } from '#worker/pipeline-cache.ts'
import type { GenerateTask, TaskFiles } from '#worker/protocol.ts'
import { openTaskInversions } from '#worker/task-assets.ts'
import { openTaskLoras } from '#worker/task-loras.ts'
import { taskModel } from '#worker/task-model.ts'
import { taskNetworks } from '#worker/task-networks.ts'
import { pictureDifference } from '../support/difference.ts'
import { goldenFolder, readGolden, relativeError } from '../support/golden.ts'
import { runTask } from '../support/make-pictures.ts'
import { tinyRefiner } from '../support/mode-models.ts'
import { loadTensors } from '../support/model-files.ts'
import { modelOf, taskOf, type ParityCase } from '../support/parity-case.ts'
import { temporaryFolder } from '../support/temporary-folder.ts'

type InversionCase = ParityCase & { readonly words: readonly string[] }

const folder = join(goldenFolder, 'inversions')
const cases = JSON.parse(readFileSync(join(folder, 'cases.json'), 'utf8')) as InversionCase[]
const embeds = await readGolden('inversions/embeds.safetensors')

const cacheDir = mkdtempSync(join(tmpdir(), 'sepia-inversions-'))
const scratchDir = join(cacheDir, 'scratch')
mkdirSync(scratchDir)
afterAll(() => rm(cacheDir, { recursive: true, force: true }))

const fileOf = (c: ParityCase, word: string): string => join(folder, `${c.model}-${word}.safetensors`)

function inversionTask(c: InversionCase): { task: GenerateTask; files: TaskFiles } {
  const task = { ...taskOf(c), textualInversions: c.words.map((word) => ({ asset: word, trigger: word })) }
  const assets = Object.fromEntries(c.words.map((word) => [word, fileOf(c, word)]))
  return { task, files: { checkpoint: modelOf(c), refiner: null, pictures: {}, assets } }
}

describe('the prompt embeddings are those of diffusers', () => {
  test.each(cases.map((c) => [c.name, c] as const))('%s', async (name, c) => {
    const { files, task } = inversionTask(c)
    const settings = {
      device: 'cpu',
      backend: 'onnxruntime',
      precision: 'fp32',
      threads: 2,
      cacheDir,
      cacheLimitBytes: 1e9,
      scratchDir,
    } as const
    await using pipelines = new PipelineCache(settings)
    const opened = await pipelines.open(files.checkpoint, () => {})
    const { pipeline, vae } = taskModel(opened.checkpoint, null, 'textToImage')
    const inversions = await openTaskInversions(task, files, opened.checkpoint, null)
    const loras = await openTaskLoras(task, files, opened.checkpoint, { backend: 'onnxruntime' })
    const networks = taskNetworks(opened, null, vae, loras, {
      pipelines,
      onProgress: () => {},
      duringLoad: (load) => load(),
      onLoaded: () => {},
      onWarning: () => {},
    })
    const { positive, negative } = await encodePrompts(pipeline, networks, { ...task, inversions }, true)
    const parts: Record<string, Tensor> = {
      positive: positive.promptEmbeds,
      pooled: positive.pooledPromptEmbeds,
      negative: negative!.promptEmbeds,
      negative_pooled: negative!.pooledPromptEmbeds,
    }
    for (const [part, actual] of Object.entries(parts)) {
      const expected = embeds.get(`${name}.${part}`)!
      const error = expected.data.every((value) => value === 0)
        ? Math.max(...actual.data.map(Math.abs))
        : relativeError(actual, expected)
      expect({ part, error: error > 2e-6 ? error : 0 }).toEqual({ part, error: 0 })
    }
  })
})

describe('the pictures are those of diffusers', () => {
  test.each(cases.map((c) => [c.name, c] as const))('%s', async (name, c) => {
    const { files, task } = inversionTask(c)
    const { pictures, result } = await runTask(files.checkpoint, task, {}, files)
    const { mean, max } = await pictureDifference(pictures[0], join(folder, `${name}.png`))
    expect(mean).toBeLessThanOrEqual(0.2)
    expect(max).toBeLessThanOrEqual(3)
    expect(result.warnings).toEqual([])
  })
})

test('a file of torch.save holds the same vectors', async () => {
  const output = join(await temporaryFolder('inversions'), 'zorb.safetensors')
  const torch = await openTorchFile(join(folder, 'tiny-a-zorb.pt'))
  expect(torch.leftOut).toEqual(['"name"', '"step"'])
  await convertTorchFile(torch, output)
  expect(await loadTensors(output)).toEqual(await loadTensors(join(folder, 'tiny-a-zorb.safetensors')))
})

test('the next request of the same process does not know the word, and may give it another meaning', async () => {
  const c = cases[0]
  const { files, task } = inversionTask(c)
  const plain = { ...task, textualInversions: [] }
  const [before] = (await runTask(files.checkpoint, plain)).pictures
  const [bound] = (await runTask(files.checkpoint, task, {}, files)).pictures
  expect(Buffer.compare(bound, before)).not.toBe(0)
  const [after] = (await runTask(files.checkpoint, plain)).pictures
  expect(Buffer.compare(after, before)).toBe(0)
  const other = { ...task, textualInversions: [{ asset: 'zorb', trigger: 'plim' }] }
  const [rebound] = (await runTask(files.checkpoint, other, {}, { assets: { zorb: fileOf(c, 'zorb') } })).pictures
  expect(Buffer.compare(rebound, bound)).not.toBe(0)
})

test('a word that no prompt has is told', async () => {
  const { files, task } = inversionTask(cases[0])
  const { result } = await runTask(files.checkpoint, { ...task, prompt: 'explimation' }, {}, files)
  expect(result.warnings).toEqual(['the textual inversion "plim" has no effect: none of the prompts has that word'])
})

test('vectors of another model are refused with the field', async () => {
  const { files, task } = inversionTask(cases[0])
  const other = join(folder, 'tiny-b-plim.safetensors')
  await expect(runTask(files.checkpoint, task, {}, { assets: { plim: other } })).rejects.toMatchObject({
    code: 'wrong_architecture',
    field: 'textualInversions',
    message: expect.stringContaining('64 and 128 channels'),
  })
})

test('a refiner takes the vectors for the second text encoder', async () => {
  const { files, task } = inversionTask(cases[0])
  // It does all steps, so that a difference is its own.
  const refined = { ...task, refiner: { denoisingEnd: 0 } }
  const both = { ...files, refiner: tinyRefiner }
  const [bound] = (await runTask(files.checkpoint, refined, {}, both)).pictures
  const [plain] = (await runTask(files.checkpoint, { ...refined, textualInversions: [] }, {}, both)).pictures
  expect((await pictureDifference(bound, plain)).max).toBeGreaterThan(0)
})

test('a picture of a batch is, bit for bit, the one made alone', async () => {
  const { files, task } = inversionTask(cases[2])
  const { pictures } = await runTask(files.checkpoint, { ...task, seeds: [9, 2] }, {}, files)
  const [alone] = (await runTask(files.checkpoint, task, {}, files)).pictures
  expect(Buffer.compare(pictures[1], alone)).toBe(0)
})

test('fp16 graphs stay close', async () => {
  const c = cases[1]
  const { files, task } = inversionTask(c)
  const { pictures } = await runTask(files.checkpoint, task, { precision: 'fp16' }, files)
  expect((await pictureDifference(pictures[0], join(folder, `${c.name}.png`))).mean).toBeLessThanOrEqual(2)
})
