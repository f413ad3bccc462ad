// Uploads as an engine process sees them: what they are by their bytes, and in which words they are refused.
import { existsSync } from 'node:fs'
import { copyFile, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { AssetKind, AssetReport } from '#engine/weights/asset-report.ts'
import { expectedVaeTensors } from '#engine/weights/expected-tensors.ts'
import { openCheckpoint } from '#engine/weights/open-checkpoint.ts'
import { EngineProcess } from '#worker/engine-process.ts'
import { inspectAsset } from '#worker/inspect-asset.ts'
import { loadTensors, saveHole, saveTensors, type FileTensor } from '../support/model-files.ts'
import { tinyModels, writeTinyBSingleFile } from '../support/tiny-b-single-file.ts'
import { torchFileOf } from '../support/torch-archive.ts'
import { engineSettings } from './fixture-task.ts'

const tinyB = join(tinyModels, 'tiny-b')
const pocket = join(import.meta.dirname, '../golden/models/pocket')
let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sepia-inspect-asset-'))
})
afterEach(() => rm(folder, { recursive: true, force: true }))

const inspect = (kind: AssetKind, path = join(folder, 'upload')): Promise<AssetReport> =>
  inspectAsset({ kind, path, output: join(folder, 'output'), checkpoint: tinyB })

const floats = (shape: readonly number[], value = 0.5): FileTensor => {
  const data = new Float32Array(shape.reduce((product, size) => product * size, 1)).fill(value)
  return { dtype: 'F32', shape, bytes: new Uint8Array(data.buffer) }
}

/** Write an upload of these tensors. */
async function upload(tensors: Readonly<Record<string, FileTensor>>, metadata = {}): Promise<void> {
  await saveTensors(join(folder, 'upload'), new Map(Object.entries(tensors)), metadata)
}

const vaeTensors = (): Promise<Map<string, FileTensor>> =>
  loadTensors(join(tinyB, 'vae/diffusion_pytorch_model.safetensors'))

describe('an upload', () => {
  test('may be a checkpoint with the vocabulary of the model that is served', async () => {
    await copyFile(await writeTinyBSingleFile(), join(folder, 'upload'))
    expect(await inspect('checkpoint')).toMatchObject({
      kind: 'checkpoint',
      fileFormat: 'safetensors',
      converted: false,
      architecture: expect.stringContaining('Stable Diffusion XL'),
      dataType: 'fp16',
      details: { kind: 'checkpoint', model: 'base', predictionType: 'epsilon', vaeIncluded: true },
      warnings: [],
    })
  })

  test('may be a VAE under either kind of names, with a prefix or without', async () => {
    const tensors = await vaeTensors()
    await saveTensors(join(folder, 'upload'), tensors)
    const expected = { details: { kind: 'vae', latentChannels: 4, scaleFactor: 8 }, tensors: tensors.size }
    expect(await inspect('vae')).toMatchObject(expected)
    const whole = await loadTensors(await writeTinyBSingleFile())
    const ldm = [...whole].filter(([name]) => name.startsWith('first_stage_model.'))
    await saveTensors(join(folder, 'upload'), new Map([...ldm, ['first_stage_model.model_ema.decay', floats([1])]]))
    expect(await inspect('vae')).toMatchObject({ details: expected.details })
    const bare = new Map(ldm.map(([name, tensor]) => [name.slice('first_stage_model.'.length), tensor]))
    await saveTensors(join(folder, 'upload'), bare, { 'modelspec.architecture': 'stable-diffusion-v1/vae' })
    expect(await inspect('vae')).toMatchObject({
      details: expected.details,
      warnings: [expect.stringContaining('calls itself one of Stable Diffusion 1.x')],
    })
  })

  test('may be of the standard size where another model is served', async () => {
    const path = join(folder, 'upload')
    const ask = (kind: AssetKind): Promise<AssetReport> =>
      inspectAsset({ kind, path, output: join(folder, 'output'), checkpoint: pocket })
    const { config } = (await openCheckpoint(tinyB)).vae!
    const shapes = expectedVaeTensors({ ...config, blockOutChannels: [128, 256, 512, 512], layersPerBlock: 2 })
    await saveHole(path, Object.fromEntries(shapes))
    expect(await ask('vae')).toMatchObject({ details: { latentChannels: 4, scaleFactor: 8 }, parameters: 83_653_863 })
    await upload({ clip_l: floats([1, 768]), clip_g: floats([1, 1280]) })
    expect(await ask('textual_inversion')).toMatchObject({ details: { vectors: 1 } })
    await copyFile(join(pocket, 'vae/diffusion_pytorch_model.safetensors'), path)
    expect(await ask('vae')).toMatchObject({ details: { latentChannels: 8, scaleFactor: 32 } })
  })

  test('may be a textual inversion of this model or of the standard one', async () => {
    await upload({ clip_l: floats([4, 64]), clip_g: floats([4, 128]) })
    expect(await inspect('textual_inversion')).toMatchObject({
      architecture: expect.stringContaining('the model that is served'),
      details: { kind: 'textual_inversion', vectors: 4 },
      dataType: 'fp32',
    })
    await upload({ text_encoders_0: floats([2, 768]), text_encoders_1: floats([2, 1280]) })
    expect(await inspect('textual_inversion')).toMatchObject({
      architecture: expect.stringContaining('Stable Diffusion XL'),
      details: { vectors: 2 },
    })
    await upload({ anything: floats([1280]), else: floats([768]) })
    expect(await inspect('textual_inversion')).toMatchObject({ details: { vectors: 1 } })
  })

  test('may be a file of torch.save, which becomes safetensors', async () => {
    const [data, data2] = [new Float32Array(128).fill(1), new Float32Array(256).fill(2)]
    const file = torchFileOf({ clip_l: { shape: [2, 64], data }, clip_g: { shape: [2, 128], data: data2 } })
    await writeFile(join(folder, 'upload'), file)
    expect(await inspect('textual_inversion')).toMatchObject({ fileFormat: 'pt', converted: true })
    const converted = await loadTensors(join(folder, 'output'))
    expect(converted.get('clip_g')!.bytes).toEqual(new Uint8Array(data2.buffer))
  })

  test('may be a LoRA, which has to fit whole', async () => {
    const module = 'lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q'
    const width = (await loadTensors(join(tinyB, 'unet/diffusion_pytorch_model.safetensors'))).get(
      'mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight',
    )!.shape[0]
    const thumbnail = `data:image/png;base64,${Buffer.from('picture').toString('base64')}`
    const tensors = {
      [`${module}.lora_down.weight`]: floats([2, width]),
      [`${module}.lora_up.weight`]: floats([width, 2]),
    }
    await upload(tensors, { 'modelspec.trigger_phrase': 'sks dog', 'modelspec.thumbnail': thumbnail })
    expect(await inspect('lora')).toMatchObject({
      details: { kind: 'lora', families: { lora: 1 }, tensorsUsed: 2, tensorsPresent: 2 },
      triggerWords: ['sks dog'],
      thumbnail,
    })
    await upload(tensors, { ss_output_name: 'my_LCM_lora_v2' })
    expect(await inspect('lora')).toMatchObject({ warnings: [expect.stringContaining('the sampler LCM')] })
    await upload({ ...tensors, 'lora_unet_middle.lora_down.weight': floats([2, 3]) })
    await expect(inspect('lora')).rejects.toMatchObject({
      code: 'wrong_architecture',
      message: expect.stringContaining('lora_unet_middle'),
    })
  })

  test('may be a ControlNet of any layout', async () => {
    const path = join(folder, 'upload')
    const hint = { 'controlnet_cond_embedding.conv_in.weight': [16, 3, 3, 3] }
    const added = { 'add_embedding.linear_1.weight': [1280, 2816] }
    await saveHole(path, { ...hint, ...added })
    expect(await inspect('controlnet')).toMatchObject({ details: { layout: 'diffusers' } })
    await saveHole(path, { ...hint, ...added, task_embedding: [6, 320] })
    expect(await inspect('controlnet')).toMatchObject({ details: { layout: 'union' } })
    await saveHole(path, {
      'control_model.input_hint_block.0.weight': [1],
      'control_model.label_emb.0.0.weight': [1280, 2816],
    })
    expect(await inspect('controlnet')).toMatchObject({ details: { layout: 'ldm' } })
    await saveHole(path, { lora_controlnet: [1], 'label_emb.0.0.down': [128, 2816] })
    expect(await inspect('controlnet')).toMatchObject({ details: { layout: 'control-lora' } })
    await saveHole(path, hint)
    await expect(inspect('controlnet')).rejects.toThrow('one of Stable Diffusion 1.x or 2.x')
  })
})

describe('what is refused', () => {
  /** The error of an upload, which tells nothing of this machine; nothing is left where the weights would go. */
  const refusal = async (kind: AssetKind): Promise<unknown> => {
    const error = await inspect(kind).then(
      () => new Error('it was taken'),
      (caught: unknown) => caught as Error,
    )
    for (const place of [folder, tinyB]) expect(error.message).not.toContain(place)
    expect(existsSync(join(folder, 'output'))).toBe(false)
    return error
  }
  const saying = (code: string, words: string): object => ({ code, message: expect.stringContaining(words) as string })

  test('an inversion of Stable Diffusion 1.x, in part, too long, too many, uneven or not finite', async () => {
    await upload({ emb_params: floats([2, 768]) })
    expect(await refusal('textual_inversion')).toMatchObject(
      saying('wrong_architecture', 'it is one of Stable Diffusion 1.x'),
    )
    await upload({ clip_g: floats([1, 128]) })
    expect(await refusal('textual_inversion')).toMatchObject(saying('wrong_architecture', 'it has no clip_l'))
    await upload({ clip_l: floats([1, 64]), clip_g: floats([2, 128]) })
    expect(await refusal('textual_inversion')).toMatchObject(
      saying('wrong_architecture', '1 vectors for the first text encoder and 2'),
    )
    await upload({ clip_l: floats([76, 64]), clip_g: floats([76, 128]) })
    expect(await refusal('textual_inversion')).toMatchObject(saying('wrong_architecture', 'up to 75 vectors'))
    await upload({ clip_l: floats([1, 64]), clip_g: floats([1, 128], NaN) })
    expect(await refusal('textual_inversion')).toMatchObject(saying('bad_file', 'value 0 of clip_g is NaN'))
    await upload({ clip_l: floats([1, 60]), clip_g: floats([1, 128]) })
    expect(await refusal('textual_inversion')).toMatchObject(
      saying('wrong_architecture', 'its vectors have 60 and 128 channels'),
    )
    await upload({ clip_l: floats([1, 64]), clip_g: floats([1, 128]), clip_g_out: floats([1, 128]) })
    expect(await refusal('textual_inversion')).toMatchObject(saying('wrong_architecture', 'clip_g_out'))
  })

  test('a file of another kind than its owner says', async () => {
    await saveTensors(join(folder, 'upload'), await vaeTensors())
    expect(await refusal('checkpoint')).toMatchObject(saying('wrong_architecture', 'an autoencoder (VAE) alone'))
    expect(await refusal('textual_inversion')).toMatchObject(saying('wrong_architecture', 'an autoencoder (VAE) alone'))
    expect(await refusal('controlnet')).toMatchObject(
      saying('wrong_architecture', 'an autoencoder (VAE) alone, not a ControlNet'),
    )
    await copyFile(await writeTinyBSingleFile(), join(folder, 'upload'))
    expect(await refusal('vae')).toMatchObject(saying('wrong_architecture', 'is Stable Diffusion XL, not a'))
    expect(await refusal('lora')).toMatchObject(saying('wrong_architecture', 'is Stable Diffusion XL, not a LoRA'))
    await upload({ clip_l: floats([1, 64]), clip_g: floats([1, 128]) })
    expect(await refusal('lora')).toMatchObject(
      saying('wrong_architecture', 'a textual inversion (an embedding of words), not a LoRA'),
    )
    expect(await refusal('vae')).toMatchObject(saying('wrong_architecture', 'a textual inversion'))
    await writeFile(join(folder, 'upload'), 'GGUF and some more bytes')
    expect(await refusal('checkpoint')).toMatchObject(saying('bad_file', 'GGUF'))
    await writeFile(join(folder, 'upload'), Buffer.from('8002'.concat('8a0a6cfc9c46f920'), 'hex'))
    expect(await refusal('checkpoint')).toMatchObject(saying('bad_file', 'before PyTorch 1.6'))
  })

  test('a VAE of another latent space', async () => {
    const vaeOf = join(tinyModels, 'tiny-a/vae/diffusion_pytorch_model.safetensors')
    await copyFile(vaeOf, join(folder, 'upload'))
    expect(await refusal('vae')).toMatchObject(saying('wrong_architecture', 'it makes 2 pixels of a latent'))
  })

  test('a converted file that is none of what it should be leaves nothing', async () => {
    await writeFile(join(folder, 'upload'), torchFileOf({ x: { shape: [2], data: new Float32Array(2) } }))
    expect(await refusal('vae')).toMatchObject(saying('wrong_architecture', 'not an autoencoder'))
    expect(await readdir(folder)).toEqual(['upload'])
  })
})

test('an engine process answers with the report, and goes on after a refusal', async () => {
  await using engine = await EngineProcess.start(engineSettings(join(folder, 'cache')))
  const asset = { path: join(folder, 'upload'), output: join(folder, 'output'), checkpoint: tinyB } as const
  await writeFile(asset.path, 'no file of weights')
  await expect(engine.inspectAsset({ ...asset, kind: 'vae' })).rejects.toMatchObject({ code: 'bad_file' })
  await saveTensors(asset.path, await vaeTensors())
  expect(await engine.inspectAsset({ ...asset, kind: 'vae' })).toMatchObject({ kind: 'vae', dataType: 'fp16' })
})

test('words of a file are words and no more', async () => {
  const name = 'a\u0000b\u202ec\nd'
  await saveTensors(join(folder, 'upload'), new Map([[name, floats([1])]]))
  const refused = await inspect('vae').catch((error: unknown) => error as Error)
  expect((refused as Error).message).toContain('a\ufffdb\ufffdc\ufffdd')
  const tensors = {
    clip_l: { shape: [1, 64], data: new Float32Array(64) },
    clip_g: { shape: [1, 128], data: new Float32Array(128) },
  }
  await writeFile(join(folder, 'upload'), torchFileOf(tensors, { [name]: null }))
  expect((await inspect('textual_inversion')).warnings).toEqual([
    String.raw`values that are no weights were left out: "a\u0000b${'\ufffd'}c\nd"`,
  ])
})
