// Single files of the true size, without data: what is read off the names and shapes of SDXL, its refiner, its
// inpainting and v-prediction models and a pruned one must be what diffusers' configs and state dicts say.
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Checkpoint, Weights } from '#engine/weights/checkpoint.ts'
import {
  expectedClipTextTensors,
  expectedUNetTensors,
  expectedVaeTensors,
  type ExpectedTensors,
} from '#engine/weights/expected-tensors.ts'
import { openCheckpoint } from '#engine/weights/open-checkpoint.ts'
import { sdxlSchedulerConfig } from '#engine/weights/scheduler-options.ts'
import { unetConfigOf } from '#engine/weights/unet-options.ts'
import type { DType } from '#tensor/dtype.ts'
import { saveHole } from '../../support/model-files.ts'

type Shapes = Record<string, readonly number[]>
type Golden = {
  readonly unetConfig: Record<string, unknown>
  readonly components: Record<'unet' | 'vae' | 'textEncoder' | 'textEncoder2', Shapes>
  readonly singleFile: Shapes
}

async function golden(name: string): Promise<Golden> {
  const file = join(import.meta.dirname, `../../golden/shapes/${name}.json.gz`)
  return JSON.parse(gunzipSync(await readFile(file)).toString()) as Golden
}

let folder: string
let path: string
let base: Golden
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'single-file-'))
  path = join(folder, 'model.safetensors')
  base = await golden('base')
})
afterAll(() => rm(folder, { recursive: true }))

type Hole = { metadata?: Record<string, string>; dtypeOf?: (name: string) => DType }

async function openHole(shapes: Shapes, { metadata, dtypeOf }: Hole = {}): Promise<Checkpoint> {
  await saveHole(path, shapes, metadata, dtypeOf)
  return await openCheckpoint(path)
}

function without(shapes: Shapes, pattern: RegExp): Shapes {
  return Object.fromEntries(Object.entries(shapes).filter(([name]) => !pattern.test(name)))
}

function shapesOf(weights: Weights | ExpectedTensors | undefined): Shapes {
  return Object.fromEntries(
    [...(weights ?? [])].map(([key, value]) => [key, 'source' in value ? value.shape : value] as const),
  )
}

const refused = (code: string, message: string): object => ({
  code,
  message: expect.stringContaining(message) as string,
})

test.each(['base', 'refiner', 'ssd-1b'])('%s resolves to the config and state dicts of diffusers', async (name) => {
  const { unetConfig, components, singleFile } = await golden(name)
  const checkpoint = await openHole(singleFile)
  const { textEncoder, textEncoder2, unet, vae } = checkpoint
  expect(unet.config).toEqual(unetConfigOf({ file: 'config.json', values: unetConfig }))
  expect(shapesOf(unet.weights)).toEqual(components.unet)
  expect(shapesOf(vae!.weights)).toEqual(components.vae)
  expect(shapesOf(textEncoder2.weights)).toEqual(components.textEncoder2)
  expect(shapesOf(textEncoder?.weights)).toEqual(components.textEncoder ?? {})
  expect(checkpoint.kind).toBe(name === 'refiner' ? 'refiner' : 'base')
  expect(checkpoint.forceZerosForEmptyPrompt).toBe(name !== 'refiner')
  expect(checkpoint.scheduler).toEqual(sdxlSchedulerConfig)

  // The lists that the configurations give are those of diffusers too.
  expect(shapesOf(expectedUNetTensors(unet.config))).toEqual(components.unet)
  expect(shapesOf(expectedVaeTensors(vae!.config))).toEqual(components.vae)
  expect(shapesOf(expectedClipTextTensors(textEncoder2.config))).toEqual(components.textEncoder2)
})

test('base: the numbers that everybody knows', async () => {
  const { textEncoder, textEncoder2, unet, vae, tokenizer, tokenizer2 } = await openHole(base.singleFile)
  expect(unet.config).toMatchObject({
    inChannels: 4,
    downBlocks: [
      { channels: 320, transformers: [null, null], resample: true },
      { channels: 640, transformers: [2, 2], heads: 10, resample: true },
      { channels: 1280, transformers: [10, 10], heads: 20, resample: false },
    ],
    midBlock: { transformers: [10], heads: 20 },
    crossAttentionDim: 2048,
    timeEmbedDim: 1280,
    additionTimeEmbedDim: 256,
    addEmbeddingInputDim: 2816,
    useLinearProjection: true,
  })
  expect(textEncoder!.config).toMatchObject({ numHiddenLayers: 12, numAttentionHeads: 12, hiddenAct: 'quick_gelu' })
  expect(textEncoder2.config).toMatchObject({ numHiddenLayers: 32, numAttentionHeads: 20, hiddenAct: 'gelu' })
  expect(textEncoder2.config.projectionDim).toBe(1280)
  expect(vae!.config).toMatchObject({
    blockOutChannels: [128, 256, 512, 512],
    layersPerBlock: 2,
    scalingFactor: 0.13025,
  })
  expect([tokenizer!.padTokenId, tokenizer2.padTokenId, tokenizer2.vocab.size]).toEqual([49_407, 0, 49_408])
})

test('the structures of a pruned network are seen where they are', async () => {
  const { unet } = await openHole((await golden('ssd-1b')).singleFile)
  expect(unet.config.midBlock).toEqual({ transformers: [], heads: 0 })
  expect(unet.config.upBlocks.map(({ transformers }) => transformers)).toEqual([
    [4, 4, 10],
    [2, 1, 1],
    [null, null, null],
  ])
})

test('transformers that only some resnets have are numbered without gaps, and a middle block may be missing', async () => {
  const pruned = Object.fromEntries(
    Object.entries(without(base.singleFile, /input_blocks\.4\.1\.|output_blocks\.5\.1\.|middle_block\./)).map(
      ([name, shape]) => [name.replace('output_blocks.5.2.conv', 'output_blocks.5.1.conv'), shape],
    ),
  )
  const { unet } = await openHole(pruned)
  expect(unet.config.midBlock).toBeNull()
  expect(unet.config.downBlocks[1].transformers).toEqual([null, 2])
  expect(unet.config.upBlocks[1].transformers).toEqual([2, 2, null])
  const moved = unet.weights.get('down_blocks.1.attentions.0.proj_in.weight')!.source
  const { unet: whole } = await openHole(base.singleFile)
  expect(moved).toHaveProperty('offset')
  expect(whole.weights.get('down_blocks.1.attentions.1.proj_in.weight')!.shape).toEqual([640, 640])
})

describe('kinds', () => {
  const convIn = 'model.diffusion_model.input_blocks.0.0.weight'

  test('nine channels in: inpainting', async () => {
    const { kind, unet } = await openHole({ ...base.singleFile, [convIn]: [320, 9, 3, 3] })
    expect([kind, unet.config.inChannels]).toEqual(['inpainting', 9])
  })

  test('eight channels in: something else', async () => {
    await expect(openHole({ ...base.singleFile, [convIn]: [320, 8, 3, 3] })).rejects.toMatchObject(
      refused('wrong_architecture', 'takes 8 channels and makes 4'),
    )
  })

  test.each([
    [{ v_pred: [0] }, {}, { predictionType: 'v_prediction', rescaleBetasZeroSnr: false, timestepSpacing: 'leading' }],
    [
      { v_pred: [0], ztsnr: [0] },
      {},
      { predictionType: 'v_prediction', rescaleBetasZeroSnr: true, timestepSpacing: 'trailing' },
    ],
    [{}, { 'modelspec.prediction_type': 'v' }, { predictionType: 'v_prediction', rescaleBetasZeroSnr: false }],
    [{}, { 'modelspec.prediction_type': 'epsilon' }, sdxlSchedulerConfig],
  ])('markers %j and metadata %j', async (markers, metadata, expected) => {
    const { scheduler } = await openHole({ ...base.singleFile, ...markers }, { metadata })
    expect(scheduler).toMatchObject(expected)
  })

  test('an unknown prediction type', async () => {
    const metadata = { 'modelspec.prediction_type': 'flow' }
    await expect(openHole(base.singleFile, { metadata })).rejects.toMatchObject(
      refused('wrong_architecture', 'modelspec.prediction_type is "flow", supported: epsilon, v'),
    )
  })

  test('no VAE inside', async () => {
    expect((await openHole(without(base.singleFile, /^first_stage_model\./))).vae).toBeNull()
  })
})

test('mixed formats, and what training leaves behind, are no obstacle', async () => {
  const junk: Shapes = {
    'model_ema.diffusion_modelinput_blocks00weight': [320, 4, 3, 3],
    'model_ema.decay': [],
    alphas_cumprod: [1000],
    betas: [1000],
    'denoiser.sigmas': [1000],
    global_step: [],
    'first_stage_model.loss.logvar': [],
    'first_stage_model.model_ema.decay': [],
    'conditioner.embedders.0.transformer.text_model.embeddings.position_ids': [1, 77],
    'conditioner.embedders.0.transformer.text_projection.weight': [768, 768],
    'conditioner.embedders.1.model.logit_scale': [],
    'conditioner.embedders.1.model.attn_mask': [77, 77],
  }
  const formats = { position_ids: 'I64', first_stage_model: 'F32', 'embedders.1': 'BF16' } as const
  const dtypeOf = (name: string): DType => Object.entries(formats).find(([part]) => name.includes(part))?.[1] ?? 'F16'
  const { unet, vae, textEncoder2 } = await openHole({ ...base.singleFile, ...junk }, { dtypeOf })
  expect(unet.weights.get('conv_in.weight')!.dtype).toBe('F16')
  expect(vae!.weights.get('decoder.conv_in.weight')!.dtype).toBe('F32')
  expect(textEncoder2.weights.get('text_projection.weight')!.dtype).toBe('BF16')
})

test('a projection that is stored as a linear is taken as it lies', async () => {
  const { 'conditioner.embedders.1.model.text_projection': shape, ...others } = base.singleFile
  const { textEncoder2 } = await openHole({ ...others, 'conditioner.embedders.1.model.text_projection.weight': shape })
  expect(textEncoder2.weights.get('text_projection.weight')!.source).toHaveProperty('offset')
})

describe('a damaged or foreign single file', () => {
  const unet = 'model.diffusion_model.'
  test.each<[string, (shapes: Shapes) => Shapes, string, string]>([
    [
      'one tensor missing',
      (shapes) => without(shapes, /input_blocks\.4\.1\.norm\.weight/),
      'missing_tensors',
      'unet: 1 tensor is missing: down_blocks.1.attentions.0.norm.weight',
    ],
    [
      'every second resnet weight missing',
      (shapes) => without(shapes, /in_layers\.2\.weight/),
      'missing_tensors',
      'unet: 17 tensors are missing: down_blocks.0.resnets.0.conv1.weight',
    ],
    [
      'no time embedding',
      (shapes) => without(shapes, /time_embed\.0\.weight/),
      'missing_tensors',
      'time_embed.0.weight',
    ],
    [
      'no conv_out',
      (shapes) => without(shapes, /model\.out\.2\.weight/),
      'missing_tensors',
      'model.diffusion_model.out.2.weight',
    ],
    ['no UNet blocks', (shapes) => without(shapes, /input_blocks\.[1-9]/), 'missing_tensors', 'input_blocks.1.*'],
    ['no text encoders', (shapes) => without(shapes, /^conditioner/), 'missing_tensors', 'without the text encoders'],
    [
      'no first layer of encoder 1',
      (shapes) => without(shapes, /layers\.0\.mlp\.fc1/),
      'missing_tensors',
      'layers.0.mlp.fc1.weight',
    ],
    [
      'no encoder 2',
      (shapes) => without(shapes, /^conditioner\.embedders\.1/),
      'missing_tensors',
      'conditioner.embedders.1.model.token_embedding.weight',
    ],
    [
      'no projection',
      (shapes) => without(shapes, /text_projection/),
      'missing_tensors',
      'conditioner.embedders.1.model.text_projection',
    ],
    [
      'half a VAE',
      (shapes) => without(shapes, /^first_stage_model\.encoder\.mid/),
      'missing_tensors',
      'vae: 26 tensors are missing',
    ],
    [
      'a tensor of no part of the UNet',
      (shapes) => ({ ...shapes, [`${unet}input_blocks.1.0.adapter.weight`]: [1], [`${unet}motion.weight`]: [1] }),
      'wrong_architecture',
      'unet: 2 tensors belong to no part of the network: input_blocks.1.0.adapter.weight, motion.weight',
    ],
    [
      'a third text encoder',
      (shapes) => ({ ...shapes, 'conditioner.embedders.2.t5.weight': [1] }),
      'wrong_architecture',
      'conditioner.embedders.2.t5.weight',
    ],
    [
      'a wrong shape',
      (shapes) => ({ ...shapes, [`${unet}input_blocks.4.1.proj_in.weight`]: [640, 320] }),
      'wrong_architecture',
      'has the shape [640, 320], the network needs [640, 640]',
    ],
    [
      'a shape of too few dimensions, where the structure is read',
      (shapes) => ({ ...shapes, 'conditioner.embedders.1.model.token_embedding.weight': [1280] }),
      'wrong_architecture',
      'textEncoder2: tensor token_embedding.weight has the shape [1280], expected 2 dimensions',
    ],
    [
      'a layer with an absurd number',
      (shapes) => ({ ...shapes, 'conditioner.embedders.1.model.transformer.resblocks.999999999.ln_1.weight': [1280] }),
      'wrong_architecture',
      'textEncoder2: 1 tensor belongs to no part of the network',
    ],
    [
      'text of another width',
      (shapes) =>
        Object.fromEntries(
          Object.entries(shapes).map(([name, shape]) => [name, /attn2\.to_[kv]/.test(name) ? [shape[0], 1280] : shape]),
        ),
      'wrong_architecture',
      'the UNet attends to 1280 channels of text, the text encoders give 2048',
    ],
    [
      'other time ids',
      (shapes) => ({ ...shapes, [`${unet}label_emb.0.0.weight`]: [1280, 2817] }),
      'wrong_architecture',
      "not the pooled text's 1280 and 6 time ids",
    ],
    [
      'a smaller vocabulary',
      (shapes) => ({
        ...shapes,
        'conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight': [1000, 768],
        'conditioner.embedders.1.model.token_embedding.weight': [1000, 1280],
      }),
      'wrong_architecture',
      "embeddings of 1000 tokens, CLIP's tokenizer has 49408",
    ],
    [
      'a VAE of 16 channels',
      (shapes) => ({
        ...shapes,
        'first_stage_model.decoder.conv_in.weight': [512, 16, 3, 3],
        'first_stage_model.post_quant_conv.weight': [16, 16, 1, 1],
        'first_stage_model.post_quant_conv.bias': [16],
        'first_stage_model.quant_conv.weight': [32, 32, 1, 1],
        'first_stage_model.quant_conv.bias': [32],
        'first_stage_model.encoder.conv_out.weight': [32, 512, 3, 3],
        'first_stage_model.encoder.conv_out.bias': [32],
      }),
      'wrong_architecture',
      'makes 4 latent channels, the VAE takes 16',
    ],
  ])('%s', async (_, change, code, message) => {
    await expect(openHole(change(base.singleFile))).rejects.toMatchObject(refused(code, message))
  })

  test('a format that is no float of ours', async () => {
    const dtypeOf = (name: string): DType => (name.startsWith(unet) ? 'F8_E4M3' : 'F16')
    await expect(openHole(base.singleFile, { dtypeOf })).rejects.toMatchObject(
      refused('bad_file', 'is stored as F8_E4M3, supported: F32, F16, BF16'),
    )
  })
})
