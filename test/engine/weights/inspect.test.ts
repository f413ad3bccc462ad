import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { inspectFile } from '#engine/weights/inspect.ts'
import { openCheckpoint } from '#engine/weights/open-checkpoint.ts'
import { recognise } from '#engine/weights/recognise.ts'
import { copyTinyModel, editJson, editTensors, saveHole } from '../../support/model-files.ts'
import { temporaryFolder } from '../../support/temporary-folder.ts'
import { tinyModels, writeTinyBSingleFile } from '../../support/tiny-b-single-file.ts'

const unet = 'model.diffusion_model.'
const foreign: [string, Record<string, readonly number[]>, string][] = [
  ['kohya LoRA', { 'lora_unet_down_blocks_1_attentions_0_proj_in.lora_down.weight': [4, 4] }, 'a LoRA'],
  ['PEFT LoRA', { 'unet.down_blocks.1.attentions.0.proj_in.lora_A.weight': [4, 4] }, 'a LoRA'],
  ['LoHa', { 'lora_te1_text_model_encoder_layers_0_mlp_fc1.hada_w1_a': [4, 4] }, 'a LoRA'],
  ['LDM ControlNet', { 'control_model.input_blocks.0.0.weight': [4] }, 'a ControlNet'],
  [
    'diffusers ControlNet',
    { 'controlnet_cond_embedding.conv_in.weight': [4], 'down_blocks.0.resnets.0.conv1.weight': [4] },
    'a ControlNet',
  ],
  ['IP-Adapter', { 'image_proj.norm.weight': [4], 'ip_adapter.1.to_k_ip.weight': [4] }, 'an IP-Adapter'],
  ['textual inversion', { clip_l: [2, 768], clip_g: [2, 1280] }, 'a textual inversion'],
  ['SD 3', { [`${unet}joint_blocks.0.x_block.mlp.fc1.weight`]: [4] }, 'Stable Diffusion 3'],
  ['Flux', { 'double_blocks.0.img_attn.norm.key_norm.scale': [4] }, 'Flux'],
  ['Playground', { edm_mean: [4], [`${unet}label_emb.0.0.weight`]: [4, 4] }, 'Playground v2.5'],
  ['SD 1.5', { [`${unet}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight`]: [320, 768] }, 'Stable Diffusion 1'],
  ['SD 2', { [`${unet}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight`]: [320, 1024] }, 'Stable Diffusion 2'],
  ['LDM VAE', { 'first_stage_model.encoder.conv_in.weight': [4] }, 'an autoencoder (VAE) alone'],
  [
    'diffusers VAE',
    { 'decoder.conv_in.weight': [4], 'decoder.up_blocks.0.resnets.0.conv1.weight': [4] },
    'an autoencoder (VAE) alone',
  ],
  ['text encoder', { 'text_model.encoder.layers.0.mlp.fc1.weight': [4] }, 'a text encoder alone'],
  ['T5', { 'encoder.block.0.layer.0.SelfAttention.k.weight': [4] }, 'a T5 text encoder alone'],
  ['diffusers UNet', { 'down_blocks.0.resnets.0.conv1.weight': [4] }, 'one network of a diffusers folder alone'],
  ['LDM UNet without prefix', { 'input_blocks.0.0.weight': [4] }, 'a UNet alone'],
  ['something else', { 'layer.one': [4], 'layer.two': [4], 'head.bias': [4] }, 'its 3 tensors begin with'],
  ['nothing', {}, 'it holds no tensors'],
]

describe.each(foreign)('%s', (_, shapes, words) => {
  test('is named, and refused as a model', async () => {
    expect(recognise(new Map(Object.entries(shapes))).words).toContain(words)
    const path = join(await temporaryFolder('inspect'), 'foreign.safetensors')
    await saveHole(path, shapes)
    await expect(openCheckpoint(path)).rejects.toMatchObject({
      code: 'wrong_architecture',
      message: expect.stringMatching(/^file .* is .*; supported: Stable Diffusion XL$/s) as string,
    })
    const report = await inspectFile(path)
    expect(report).toMatchObject({ layout: 'single-file', usable: false, kind: null, components: [] })
    expect(report.architecture).toContain(words)
  })
})

test('a usable folder', async () => {
  expect(await inspectFile(join(tinyModels, 'tiny-b'))).toMatchObject({
    layout: 'diffusers',
    architecture: 'Stable Diffusion XL, with a UNet of other sizes',
    usable: true,
    kind: 'base',
    predictionType: 'epsilon',
    zeroTerminalSnr: false,
    vaeIncluded: true,
    vocabularySize: 1000,
    missing: [],
    components: [
      { name: 'textEncoder', summary: '3 layers of 64, 1 head, quick_gelu, 1000 tokens' },
      { name: 'textEncoder2', summary: '3 layers of 128, 2 heads, gelu, 1000 tokens, pooled 128' },
      {
        name: 'unet',
        summary: 'channels 32/64/64, transformers 0, 1, 2, middle 2, 2 2, 1 1, 0 0, 4 → 4 channels, text of 192',
      },
      { name: 'vae', summary: 'channels 32/32/64/64, factor 8, 4 latent channels, scaling 0.13025' },
    ],
  })
})

test('a single file counts like its folder', async () => {
  const single = await inspectFile(await writeTinyBSingleFile())
  const tinyB = await inspectFile(join(tinyModels, 'tiny-b'))
  expect(single.components).toEqual(tinyB.components)
  expect(single.dtypes).toEqual({ F16: single.parameters })
  expect(single.parameters).toBe(tinyB.parameters)
  expect(single.components.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)).toBe(single.parameters * 2)
  expect(single).toMatchObject({ layout: 'single-file', title: null })
})

test('an incomplete model tells everything that is missing', async () => {
  const model = await copyTinyModel('tiny-b')
  await editTensors(join(model, 'unet/diffusion_pytorch_model.safetensors'), (tensors) => {
    for (const name of tensors.keys()) if (name.startsWith('mid_block.')) tensors.delete(name)
  })
  const report = await inspectFile(model)
  expect(report).toMatchObject({ usable: false, architecture: 'a diffusers folder of StableDiffusionXLPipeline' })
  expect(report.missing.length).toBeGreaterThan(40)
  expect(report.missing.every((name) => name.startsWith('mid_block.'))).toBe(true)
})

test('a model without a VAE is usable with another one', async () => {
  const model = await copyTinyModel('tiny-b')
  await editJson(join(model, 'model_index.json'), { vae: [null, null] })
  expect(await inspectFile(model)).toMatchObject({ usable: true, vaeIncluded: false, missing: ['vae'] })
})

test('another pipeline is described', async () => {
  const model = await copyTinyModel('tiny-b')
  await editJson(join(model, 'model_index.json'), { _class_name: 'FluxPipeline' })
  expect(await inspectFile(model)).toMatchObject({ usable: false, architecture: 'a diffusers folder of FluxPipeline' })
})

test('what cannot be read is an error', async () => {
  const folder = await temporaryFolder('inspect')
  await expect(inspectFile(join(folder, 'none'))).rejects.toMatchObject({ code: 'model_not_found' })
  await expect(inspectFile(folder)).rejects.toMatchObject({ code: 'model_not_found' })
})
