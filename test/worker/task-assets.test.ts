// Another VAE or another checkpoint for one request, and many of them in turn.
import { readFileSync, readdirSync } from 'node:fs'
import { cp, mkdir, mkdtemp, rename, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readPngText } from '#image/codec.ts'
import { PipelineCache } from '#worker/pipeline-cache.ts'
import type { EngineSettings, GenerateTask, TaskFiles } from '#worker/protocol.ts'
import { runGenerate } from '#worker/run-generate.ts'
import { pictureDifference } from '../support/difference.ts'
import { goldenFolder } from '../support/golden.ts'
import { runTask } from '../support/make-pictures.ts'
import { modeFiles, modeTask, type ModeCase } from '../support/mode-case.ts'
import { editTensors, loadTensors, saveTensors, type FileTensor } from '../support/model-files.ts'
import { temporaryFolder } from '../support/temporary-folder.ts'
import { tinyModels, writeTinyBSingleFile } from '../support/tiny-b-single-file.ts'

const swaps = join(goldenFolder, 'vae-swap')
const cases = JSON.parse(readFileSync(join(swaps, 'cases.json'), 'utf8')) as ModeCase[]
const vaeOf = (model: string): string => join(swaps, `${model}.safetensors`)

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sepia-task-assets-'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

describe('with another VAE the picture is that of diffusers', () => {
  test.each(cases.map((c) => [c.name, c] as const))('%s', async (name, c) => {
    const task = { ...modeTask(c), vae: 'other' }
    const files = { ...modeFiles(c), assets: { other: vaeOf(c.model) } }
    const { pictures } = await runTask(join(tinyModels, c.model), task, {}, files)
    const { mean, max } = await pictureDifference(pictures[0], join(swaps, `${name}.png`))
    expect(mean).toBeLessThanOrEqual(0.2)
    expect(max).toBeLessThanOrEqual(3)
    expect(readPngText(pictures[0])).toMatchObject({ vae: 'other' })
  })
})

describe('the VAE of a request', () => {
  const task = modeTask({ ...cases[0], steps: 2 })
  const model = join(tinyModels, 'tiny-a')

  test('leaves the UNet where it is, and the next request has its own again', async () => {
    const loads: string[][] = []
    const settings = await settingsIn(await temporaryFolder('vae'))
    await using pipelines = new PipelineCache(settings)
    const make = async (vae: string | null): Promise<Uint8Array> => {
      const loaded: string[] = []
      const picture = await makeOne(
        pipelines,
        model,
        { ...task, vae, previews: true },
        { other: vaeOf('tiny-a') },
        loaded,
      )
      loads.push(loaded)
      return picture
    }
    const [own, other, ownAgain] = [await make(null), await make('other'), await make(null)]
    // Decoder, and encoder for the way in which previews are shown.
    expect(loads).toEqual([['vae', 'textEncoder', 'textEncoder2', 'unet', 'vae'], ['vae', 'vae'], []])
    expect(Buffer.compare(own, ownAgain)).toBe(0)
    expect(Buffer.compare(own, other)).not.toBe(0)
  })

  test('may be the same as the own one: then the picture is the same, and nothing is loaded', async () => {
    const copy = join(await temporaryFolder('vae'), 'copy.safetensors')
    await cp(join(model, 'vae/diffusion_pytorch_model.safetensors'), copy)
    const [own] = (await runTask(model, task)).pictures
    const same = await runTask(model, { ...task, vae: 'copy' }, {}, { assets: { copy } })
    expect((await pictureDifference(same.pictures[0], own)).max).toBe(0)
    expect(same.progress.filter(({ phase }) => phase === 'load')).toEqual([])
  })

  test('may come with a checkpoint that has none', async () => {
    const bare = join(await temporaryFolder('bare'), 'bare.safetensors')
    await cp(await writeTinyBSingleFile(), bare)
    await editTensors(bare, (tensors) => {
      for (const name of tensors.keys()) if (name.startsWith('first_stage_model.')) tensors.delete(name)
    })
    const files = { assets: { other: vaeOf('tiny-b') }, servedModel: join(tinyModels, 'tiny-b') }
    const order = modeTask({ ...cases[2], steps: 2 })
    await expect(runTask(bare, order, {}, files)).rejects.toThrow('there is no VAE in it')
    const { pictures } = await runTask(bare, { ...order, vae: 'other' }, {}, files)
    const [whole] = (await runTask(files.servedModel, { ...order, vae: 'other' }, {}, files)).pictures
    expect((await pictureDifference(pictures[0], whole)).max).toBe(0)
  })

  test('has to make the latents of the model', async () => {
    await expect(runTask(model, { ...task, vae: 'b' }, {}, { assets: { b: vaeOf('tiny-b') } })).rejects.toMatchObject({
      code: 'wrong_architecture',
      field: 'vae',
      message: expect.stringContaining('it makes 8 pixels of a latent'),
    })
    const wide = join(await temporaryFolder('vae'), 'wide.safetensors')
    const tensors = await loadTensors(vaeOf('tiny-a'))
    const decoder = tensors.get('decoder.conv_in.weight')!
    const shape = decoder.shape.with(1, 8)
    tensors.set('decoder.conv_in.weight', { dtype: 'F16', shape, bytes: new Uint8Array(decoder.bytes.length * 2) })
    await saveTensors(wide, tensors)
    await expect(runTask(model, { ...task, vae: 'wide' }, {}, { assets: { wide } })).rejects.toMatchObject({
      code: 'wrong_architecture',
      field: 'vae',
      message: expect.stringContaining('it has 8 latent channels'),
    })
  })
})

test('an uploaded checkpoint takes the tokenizer of the model that is served', async () => {
  const lone = join(await temporaryFolder('lone'), '0123abcd')
  await rename(await writeTinyBSingleFile(), lone)
  const task = modeTask({ ...cases[2], steps: 2 })
  await expect(runTask(lone, task)).rejects.toThrow('a model with another one needs it')
  const served = join(tinyModels, 'tiny-b')
  const [alone] = (await runTask(lone, task, {}, { servedModel: served })).pictures
  const [whole] = (await runTask(served, task)).pictures
  expect((await pictureDifference(alone, whole)).max).toBe(0)
})

test('a checkpoint, two LoRAs, an inversion and a VAE in one request: each of them changes the picture', async () => {
  const checkpoint = join(await temporaryFolder('all'), 'uploaded')
  await rename(await writeTinyBSingleFile(), checkpoint)
  const [first, second] = [join(folder, 'first'), join(folder, 'second')]
  await saveTensors(first, loraTensors('lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q', [64, 64]))
  await saveTensors(second, loraTensors('lora_te2_text_model_encoder_layers_0_mlp_fc2', [512, 128]))
  const zorb = join(goldenFolder, 'inversions/tiny-b-zorb.safetensors')
  const whole: GenerateTask = {
    ...modeTask({ ...cases[2], steps: 2 }),
    prompt: 'a zorb apple',
    loras: [
      { asset: 'first', scale: 0.8 },
      { asset: 'second', scale: -1.2 },
    ],
    textualInversions: [{ asset: 'zorb', trigger: 'zorb' }],
    vae: 'vae',
  }
  const files = { assets: { first, second, zorb, vae: vaeOf('tiny-b') }, servedModel: join(tinyModels, 'tiny-b') }
  const [picture] = (await runTask(checkpoint, whole, {}, files)).pictures
  const parts: Partial<GenerateTask>[] = [
    { loras: whole.loras.slice(0, 1) },
    { loras: whole.loras.slice(1) },
    { textualInversions: [] },
    { vae: null },
  ]
  for (const part of parts) {
    const [without] = (await runTask(checkpoint, { ...whole, ...part }, {}, files)).pictures
    expect((await pictureDifference(without, picture)).mean).toBeGreaterThan(0)
  }
  expect((await pictureDifference((await runTask(checkpoint, whole, {}, files)).pictures[0], picture)).max).toBe(0)
})

test('many checkpoints and VAEs in turn grow neither memory nor open files, and stay within the limit', async () => {
  const models = await tinyVariants(5)
  const vaes = [null, 'other'] as const
  // So low that every network makes room for the next one: each turn opens and closes sessions and files.
  await using pipelines = new PipelineCache({ ...(await settingsIn(join(folder, 'turns'))), memoryLimitBytes: 1 })
  const task = { ...modeTask({ ...cases[0], steps: 1, cfg: 1 }), imageEncoding: 'jpeg' as const }
  const first = new Map<string, Uint8Array>()
  const count = Number(process.env['SEPIA_TEST_SWITCHES'] ?? 30)
  let [warm, warmFiles] = [0, 0]
  for (let turn = 0; turn < count; turn++) {
    const [model, vae] = [models[turn % models.length], vaes[turn % vaes.length]]
    const picture = await makeOne(pipelines, model, { ...task, vae }, { other: vaeOf('tiny-a') })
    // Each pair gives its own picture, however often the others come between.
    const key = `${model} ${vae}`
    if (!first.has(key)) first.set(key, picture)
    expect(Buffer.compare(picture, first.get(key)!)).toBe(0)
    expect(pipelines.loaded).toHaveLength(1)
    if (turn !== Math.floor(count / 3)) continue
    ;[warm, warmFiles] = [process.memoryUsage().rss, openFiles()]
  }
  expect(new Set([...first.values()].map((bytes) => Buffer.from(bytes).toString('base64'))).size).toBe(10)
  expect(openFiles()).toBeLessThanOrEqual(warmFiles + 2)
  expect(process.memoryUsage().rss).toBeLessThan(warm + (96 << 20))
})

/** A LoRA of rank 1 for one linear layer, given its inputs and outputs. */
function loraTensors(module: string, [inputs, outputs]: readonly [number, number]): Map<string, FileTensor> {
  const filled = (shape: readonly number[], value: number): FileTensor => {
    const data = Float32Array.from({ length: shape[0] * shape[1] }, (_, index) => value * (1 + (index % 7)))
    return { dtype: 'F32', shape, bytes: new Uint8Array(data.buffer) }
  }
  return new Map([
    [`${module}.lora_down.weight`, filled([1, inputs], 0.1)],
    [`${module}.lora_up.weight`, filled([outputs, 1], 0.3)],
  ])
}

/** Copies of tiny-a with another UNet each. */
async function tinyVariants(count: number): Promise<string[]> {
  const variants: string[] = []
  for (let index = 0; index < count; index++) {
    const variant = join(folder, `variant-${index}`)
    await cp(join(tinyModels, 'tiny-a'), variant, { recursive: true })
    await editTensors(join(variant, 'unet/diffusion_pytorch_model.safetensors'), (tensors) => {
      const { bytes, dtype } = tensors.get('conv_in.weight')!
      expect(dtype).toBe('F32')
      new Float32Array(bytes.buffer, bytes.byteOffset, 64).fill(index / 4)
    })
    variants.push(variant)
  }
  return variants
}

async function settingsIn(place: string): Promise<EngineSettings> {
  const [cacheDir, scratchDir] = [join(place, 'cache'), join(place, 'scratch')]
  await mkdir(scratchDir, { recursive: true })
  return {
    device: 'cpu',
    backend: 'onnxruntime',
    precision: 'fp32',
    threads: 1,
    cacheDir,
    cacheLimitBytes: 1e9,
    scratchDir,
  }
}

async function makeOne(
  pipelines: PipelineCache,
  model: string,
  task: GenerateTask,
  assets: TaskFiles['assets'],
  loads: string[] = [],
): Promise<Uint8Array> {
  let picture = new Uint8Array()
  const files = { checkpoint: model, refiner: null, pictures: {}, assets }
  await runGenerate(task, files, {
    pipelines,
    onProgress: (progress) => {
      if (progress.phase === 'load') loads.push(progress.component)
    },
    onImage: async (_index, _seed, bytes) => {
      picture = new Uint8Array(bytes)
    },
  })
  return picture
}

function openFiles(): number {
  return readdirSync('/proc/self/fd').length
}
