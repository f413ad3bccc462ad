import { cp, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import type { Checkpoint, Component, StoredTensor } from '#engine/weights/checkpoint.ts'
import { openCheckpoint } from '#engine/weights/open-checkpoint.ts'
import { readTensorBytes } from '#tensor/safetensors.ts'
import { copyTinyModel, editJson, editTensors, loadTensors, saveTensors } from '../../support/model-files.ts'
import { temporaryFolder } from '../../support/temporary-folder.ts'
import { tinyModels, writeTinyBSingleFile } from '../../support/tiny-b-single-file.ts'

const refused = (code: string, message: string): object => ({
  code,
  message: expect.stringContaining(message) as string,
})
const unetFile = 'unet/diffusion_pytorch_model.safetensors'
const vaeFile = 'vae/diffusion_pytorch_model.safetensors'

type Contents = Record<string, { dtype: string; shape: readonly number[]; bytes: string }>

/** Everything that a component is, with its bytes. */
async function contents(component: Component<unknown> | null): Promise<{ config: unknown; weights: Contents } | null> {
  if (component === null) return null
  const weights: Contents = {}
  for (const [key, stored] of component.weights) {
    const bytes = Buffer.from(await readTensorBytes(stored)).toString('base64')
    weights[key] = { dtype: stored.dtype, shape: stored.shape, bytes }
  }
  return { config: component.config, weights }
}

async function networks({ textEncoder, textEncoder2, unet, vae }: Checkpoint): Promise<unknown> {
  return await Promise.all([textEncoder, textEncoder2, unet, vae].map(contents))
}

/** The networks of the model in a folder. */
async function networksIn(folder: string): Promise<unknown> {
  return await networks(await openCheckpoint(folder))
}

let tinyB: Checkpoint
let tinyBNetworks: unknown
beforeAll(async () => {
  tinyB = await openCheckpoint(join(tinyModels, 'tiny-b'))
  tinyBNetworks = await networks(tinyB)
})

test('a single file is the folder that it was made of: configs, keys and bytes', async () => {
  const single = await openCheckpoint(await writeTinyBSingleFile())
  expect(single.layout).toBe('single-file')
  expect(await networks(single)).toEqual(tinyBNetworks)
  for (const field of ['kind', 'scheduler', 'tokenizer', 'tokenizer2', 'forceZerosForEmptyPrompt'] as const)
    expect(single).toHaveProperty(field, tinyB[field])
})

test('the tiny models and pocket have the configurations of their files', async () => {
  const tinyA = await openCheckpoint(join(tinyModels, 'tiny-a'))
  expect(tinyA.unet.config).toMatchObject({
    downBlocks: [
      { channels: 2, transformers: [null, null], heads: 0, resample: true },
      { channels: 4, transformers: [2, 2], heads: 4, resample: false },
    ],
    midBlock: { transformers: [2], heads: 4 },
    upBlocks: [
      { channels: 4, transformers: [2, 2, 2], heads: 4, resample: true },
      { channels: 2, transformers: [null, null, null], heads: 0, resample: false },
    ],
    timeProjDim: 2,
    timeEmbedDim: 8,
    normNumGroups: 1,
  })
  expect(tinyA.textEncoder!.config).toMatchObject({ hiddenSize: 32, intermediateSize: 37, projectionDim: null })
  expect([tinyA.tokenizer!.padTokenId, tinyA.tokenizer2.padTokenId]).toEqual([999, 0])
  const pocket = await openCheckpoint(join(import.meta.dirname, '../../golden/models/pocket'))
  expect(pocket.unet.config).toMatchObject({ inChannels: 8, timeEmbedDim: 256, resnetTimeScaleShift: 'scale_shift' })
  expect(pocket.vae!.config).toMatchObject({ latentChannels: 8, midBlockAddAttention: false, scalingFactor: 1 })
  expect(pocket.kind).toBe('base')
})

describe('other ways to write the same folder', () => {
  test('.fp16. variants, and the plain file where there are both', async () => {
    const folder = await copyTinyModel('tiny-b')
    await rename(join(folder, unetFile), join(folder, 'unet/diffusion_pytorch_model.fp16.safetensors'))
    await rename(join(folder, 'text_encoder/model.safetensors'), join(folder, 'text_encoder/model.fp16.safetensors'))
    await writeFile(join(folder, 'vae/diffusion_pytorch_model.fp16.safetensors'), 'not looked at')
    expect(await networksIn(folder)).toEqual(tinyBNetworks)
  })

  test.each(['safetensors.index.json', 'safetensors.index.fp16.json', 'fp16.safetensors.index.json'])(
    'shards with %s',
    async (ending) => {
      const folder = await copyTinyModel('tiny-b')
      await shard(folder, ending)
      expect(await networksIn(folder)).toEqual(tinyBNetworks)
    },
  )

  test('the prefix text_model. in encoder 1, and its buffers', async () => {
    const folder = await copyTinyModel('tiny-b')
    await editTensors(join(folder, 'text_encoder/model.safetensors'), (tensors) => {
      for (const [name, tensor] of Array.from(tensors)) {
        tensors.delete(name)
        tensors.set(`text_model.${name}`, tensor)
      }
      tensors.set('text_model.embeddings.position_ids', { dtype: 'I64', shape: [1, 2], bytes: new Uint8Array(16) })
    })
    expect(await networksIn(folder)).toEqual(tinyBNetworks)
  })

  test('the attention of an older VAE: query, key, value, proj_attn as 1×1 convolutions', async () => {
    const folder = await copyTinyModel('tiny-b')
    const names = { to_q: 'query', to_k: 'key', to_v: 'value', 'to_out.0': 'proj_attn' }
    await editTensors(join(folder, vaeFile), (tensors) => {
      for (const [name, { dtype, shape, bytes }] of Array.from(tensors)) {
        const layer = Object.keys(names).find((layer) => name.includes(`attentions.0.${layer}.`))
        if (layer === undefined) continue
        tensors.delete(name)
        const old = name.replace(layer, names[layer as keyof typeof names])
        tensors.set(old, { dtype, shape: shape.length === 2 ? [...shape, 1, 1] : shape, bytes })
      }
    })
    expect([...(await loadTensors(join(folder, vaeFile))).keys()]).toContain(
      'decoder.mid_block.attentions.0.query.weight',
    )
    expect(await networksIn(folder)).toEqual(tinyBNetworks)
  })

  test('no VAE', async () => {
    const folder = await copyTinyModel('tiny-b')
    await editJson(join(folder, 'model_index.json'), { vae: [null, null] })
    expect((await openCheckpoint(folder)).vae).toBeNull()
  })

  test('a scheduler that was trained otherwise', async () => {
    const folder = await copyTinyModel('tiny-b')
    await editJson(join(folder, 'scheduler/scheduler_config.json'), {
      _class_name: 'DDIMScheduler',
      prediction_type: 'v_prediction',
      rescale_betas_zero_snr: true,
      timestep_spacing: 'trailing',
    })
    expect((await openCheckpoint(folder)).scheduler).toMatchObject({
      predictionType: 'v_prediction',
      rescaleBetasZeroSnr: true,
      timestepSpacing: 'trailing',
      stepsOffset: 1,
    })
  })
})

/** Split the UNet's weights in two. */
async function shard(folder: string, ending: string): Promise<string> {
  const tensors = [...(await loadTensors(join(folder, unetFile)))]
  const names = [
    'diffusion_pytorch_model-00001-of-00002.safetensors',
    'diffusion_pytorch_model-00002-of-00002.safetensors',
  ]
  const middle = Math.floor(tensors.length / 2)
  await saveTensors(join(folder, 'unet', names[0]), new Map(tensors.slice(0, middle)))
  await saveTensors(join(folder, 'unet', names[1]), new Map(tensors.slice(middle)))
  const weightMap = Object.fromEntries(tensors.map(([name], at) => [name, names[at < middle ? 0 : 1]]))
  const index = join(folder, 'unet', `diffusion_pytorch_model.${ending}`)
  await writeFile(index, JSON.stringify({ metadata: {}, weight_map: weightMap }))
  await rm(join(folder, unetFile))
  return index
}

describe('a damaged folder', () => {
  const tensor = { dtype: 'F16', shape: [1], bytes: new Uint8Array(2) } as const
  test.each<[string, (folder: string) => Promise<unknown>, string, string]>([
    [
      'no model_index.json',
      (folder) => rm(join(folder, 'model_index.json')),
      'model_not_found',
      'model_index.json is missing',
    ],
    [
      'no weights',
      (folder) => rm(join(folder, unetFile)),
      'model_not_found',
      'diffusion_pytorch_model.safetensors is missing',
    ],
    [
      'pickles only',
      (folder) => rename(join(folder, unetFile), join(folder, 'unet/diffusion_pytorch_model.bin')),
      'bad_file',
      'only diffusion_pytorch_model.bin; weights are read from safetensors',
    ],
    [
      'an unknown variant only',
      (folder) => rename(join(folder, unetFile), join(folder, 'unet/diffusion_pytorch_model.non_ema.safetensors')),
      'bad_file',
      'only diffusion_pytorch_model.non_ema.safetensors',
    ],
    [
      'no tokenizer',
      (folder) => rm(join(folder, 'tokenizer_2'), { recursive: true }),
      'model_not_found',
      'has no tokenizer',
    ],
    ['no config', (folder) => rm(join(folder, 'vae/config.json')), 'model_not_found', 'vae/config.json does not exist'],
    [
      'a config that is not JSON',
      (folder) => writeFile(join(folder, 'vae/config.json'), '{'),
      'bad_file',
      'is not JSON',
    ],
    [
      'a config that is a list',
      (folder) => writeFile(join(folder, 'vae/config.json'), '[]'),
      'bad_file',
      'JSON object',
    ],
    [
      'a file cut short',
      async (folder) => {
        const bytes = await readFile(join(folder, vaeFile))
        await writeFile(join(folder, vaeFile), bytes.subarray(0, -1))
      },
      'bad_file',
      'is cut short',
    ],
    [
      'a missing tensor',
      (folder) => editTensors(join(folder, vaeFile), (tensors) => tensors.delete('decoder.conv_out.bias')),
      'missing_tensors',
      'vae: 1 tensor is missing: decoder.conv_out.bias',
    ],
    [
      'a tensor too many',
      (folder) => editTensors(join(folder, unetFile), (tensors) => tensors.set('class_embedding.weight', tensor)),
      'wrong_architecture',
      'unet: 1 tensor belongs to no part of the network: class_embedding.weight',
    ],
    [
      'a tensor of another shape',
      (folder) => editTensors(join(folder, unetFile), (tensors) => tensors.set('conv_in.bias', tensor)),
      'wrong_architecture',
      'conv_in.bias has the shape [1], the network needs [32]',
    ],
    [
      'a tensor twice',
      (folder) =>
        editTensors(join(folder, vaeFile), (tensors) => {
          const name = 'decoder.mid_block.attentions.0.to_q.bias'
          tensors.set('decoder.mid_block.attentions.0.query.bias', tensors.get(name)!)
        }),
      'bad_file',
      "are both vae's decoder.mid_block.attentions.0.to_q.bias",
    ],
    [
      'whole numbers for weights',
      (folder) =>
        editTensors(join(folder, vaeFile), (tensors) => {
          tensors.set('decoder.conv_out.bias', { dtype: 'I16', shape: [3], bytes: new Uint8Array(6) })
        }),
      'bad_file',
      'is stored as I16',
    ],
    [
      'a shard outside the folder',
      async (folder) => {
        const index = await shard(folder, 'safetensors.index.json')
        await editJson(index, { weight_map: { 'conv_in.weight': '../vae/diffusion_pytorch_model.safetensors' } })
      },
      'bad_file',
      'names the shard "../vae/diffusion_pytorch_model.safetensors"',
    ],
    [
      'a shard without its tensor',
      async (folder) => {
        const index = await shard(folder, 'safetensors.index.json')
        const { weight_map: map } = JSON.parse(await readFile(index, 'utf8')) as { weight_map: Record<string, string> }
        await editJson(index, { weight_map: { ...map, extra: map['conv_in.weight'] } })
      },
      'bad_file',
      'tensor extra is not in the shard',
    ],
    [
      'shards with more than the index',
      async (folder) => {
        const index = await shard(folder, 'safetensors.index.json')
        const { weight_map: map } = JSON.parse(await readFile(index, 'utf8')) as { weight_map: Record<string, string> }
        const { 'conv_in.weight': _, ...others } = map
        await editJson(index, { weight_map: others })
      },
      'bad_file',
      'lists 407 tensors, its shards hold 408',
    ],
  ])('%s', async (_, damage, code, message) => {
    const folder = await copyTinyModel('tiny-b')
    await damage(folder)
    await expect(openCheckpoint(folder)).rejects.toMatchObject(refused(code, message))
  })

  test('a folder of one network says which', async () => {
    await expect(openCheckpoint(join(tinyModels, 'tiny-b/unet'))).rejects.toMatchObject(
      refused('model_not_found', 'it is one network alone: UNet2DConditionModel'),
    )
  })
})

describe('options that change numbers and are not implemented', () => {
  test.each<[string, Record<string, unknown>, string, string]>([
    [
      'model_index.json',
      { _class_name: 'StableDiffusionPipeline' },
      'wrong_architecture',
      '_class_name "StableDiffusionPipeline"',
    ],
    ['model_index.json', { unet: ['diffusers', 'UNet3DConditionModel'] }, 'wrong_architecture', 'UNet3DConditionModel'],
    ['model_index.json', { text_encoder_2: [null, null] }, 'wrong_architecture', 'needed: CLIPTextModelWithProjection'],
    ['model_index.json', { vae: ['diffusers', 'AutoencoderTiny'] }, 'wrong_architecture', 'supported: AutoencoderKL'],
    ['model_index.json', { text_encoder: [null, null] }, 'wrong_architecture', 'attends to 192 channels of text'],
    [
      'unet/config.json',
      { act_fn: 'gelu' },
      'wrong_architecture',
      'act_fn "gelu" is not supported (supported: "silu", "swish")',
    ],
    ['unet/config.json', { addition_embed_type: 'text' }, 'wrong_architecture', 'addition_embed_type "text"'],
    ['unet/config.json', { addition_embed_type: null }, 'wrong_architecture', 'supported: text_time'],
    ['unet/config.json', { time_cond_proj_dim: 256 }, 'wrong_architecture', 'time_cond_proj_dim 256'],
    ['unet/config.json', { dual_cross_attention: true }, 'wrong_architecture', 'dual_cross_attention true'],
    ['unet/config.json', { center_input_sample: true }, 'wrong_architecture', 'center_input_sample true'],
    ['unet/config.json', { only_cross_attention: true }, 'wrong_architecture', 'only_cross_attention true'],
    ['unet/config.json', { an_option_of_tomorrow: 3 }, 'wrong_architecture', 'an_option_of_tomorrow 3'],
    ['unet/config.json', { mid_block_type: 'UNetMidBlock2DSimpleCrossAttn' }, 'wrong_architecture', 'mid_block_type'],
    [
      'unet/config.json',
      { down_block_types: ['DownBlock2D', 'AttnDownBlock2D', 'DownBlock2D'] },
      'wrong_architecture',
      'AttnDownBlock2D',
    ],
    ['unet/config.json', { cross_attention_dim: [192, 192, 64] }, 'wrong_architecture', 'one width for all blocks'],
    [
      'unet/config.json',
      { transformer_layers_per_block: [1, [1], [2]] },
      'wrong_architecture',
      'a number for each of 2 resnets',
    ],
    [
      'unet/config.json',
      { resnet_time_scale_shift: 'spatial' },
      'wrong_architecture',
      'resnet_time_scale_shift "spatial"',
    ],
    [
      'unet/config.json',
      { in_channels: '4' },
      'bad_file',
      'in_channels is "4", expected a whole number from 1 to 1000000',
    ],
    ['unet/config.json', { in_channels: 1e12 }, 'bad_file', 'in_channels is 1000000000000'],
    ['unet/config.json', { layers_per_block: 1e9 }, 'bad_file', 'layers_per_block is 1000000000'],
    [
      'unet/config.json',
      { transformer_layers_per_block: 1e9 },
      'bad_file',
      'transformer_layers_per_block is 1000000000',
    ],
    [
      'unet/config.json',
      { attention_head_dim: 3 },
      'wrong_architecture',
      'numbers of heads that divide 32, 64, 64 channels',
    ],
    ['unet/config.json', { norm_eps: -1 }, 'bad_file', 'norm_eps is -1, expected a number above 0 and below 1'],
    ['unet/config.json', { block_out_channels: [] }, 'bad_file', 'block_out_channels is []'],
    ['unet/config.json', { norm_eps: 'small' }, 'bad_file', 'norm_eps is "small", expected a number'],
    ['unet/config.json', { flip_sin_to_cos: 1 }, 'bad_file', 'flip_sin_to_cos is 1, expected true or false'],
    ['unet/config.json', { freq_shift: 0.5 }, 'bad_file', 'freq_shift is 0.5'],
    ['unet/config.json', { layers_per_block: [1, 1] }, 'bad_file', 'or a list of 3 of them'],
    ['unet/config.json', { addition_time_embed_dim: 16 }, 'wrong_architecture', 'add_embedding takes 320 values'],
    ['vae/config.json', { act_fn: 'relu' }, 'wrong_architecture', 'act_fn "relu"'],
    ['vae/config.json', { _class_name: 'AutoencoderTiny' }, 'wrong_architecture', 'supported: AutoencoderKL'],
    ['vae/config.json', { up_block_types: ['UpDecoderBlock2D'] }, 'wrong_architecture', '4 times UpDecoderBlock2D'],
    ['vae/config.json', { scaling_factor: 0 }, 'wrong_architecture', 'scaling_factor 0'],
    ['vae/config.json', { layers_per_block: 1001 }, 'bad_file', 'expected a whole number from 1 to 1000'],
    ['vae/config.json', { latents_mean: [1] }, 'wrong_architecture', 'null or 4 numbers'],
    ['text_encoder/config.json', { hidden_act: 'relu' }, 'wrong_architecture', 'supported: quick_gelu, gelu'],
    ['text_encoder/config.json', { max_position_embeddings: 248 }, 'wrong_architecture', 'supported: 77'],
    ['text_encoder/config.json', { num_attention_heads: 5 }, 'wrong_architecture', 'a divisor of hidden_size 64'],
    ['text_encoder/config.json', { num_hidden_layers: 1e9 }, 'bad_file', 'num_hidden_layers is 1000000000'],
    ['text_encoder_2/config.json', { eos_token_id: 7 }, 'wrong_architecture', "the tokenizer's is 999"],
    ['text_encoder_2/config.json', { vocab_size: 999 }, 'wrong_architecture', 'the tokenizer has 1000 tokens'],
    [
      'scheduler/scheduler_config.json',
      { prediction_type: 'flow_prediction' },
      'wrong_architecture',
      'prediction_type',
    ],
    ['scheduler/scheduler_config.json', { beta_schedule: 'squaredcos_cap_v2' }, 'wrong_architecture', 'beta_schedule'],
    [
      'scheduler/scheduler_config.json',
      { _class_name: 'FlowMatchEulerDiscreteScheduler' },
      'wrong_architecture',
      '_class_name',
    ],
    ['scheduler/scheduler_config.json', { beta_end: 1.5 }, 'bad_file', 'beta_end is 1.5, expected a number above 0'],
    ['scheduler/scheduler_config.json', { thresholding: true }, 'wrong_architecture', 'thresholding true'],
    ['scheduler/scheduler_config.json', { trained_betas: [0.1] }, 'wrong_architecture', 'trained_betas'],
  ])('%s %j', async (file, changes, code, message) => {
    const folder = await copyTinyModel('tiny-b')
    await editJson(join(folder, file), changes)
    const error = await openCheckpoint(folder).catch((error: unknown) => error)
    expect(error).toMatchObject(refused(code, message))
    expect((error as Error).message).not.toContain('\n')
  })

  test('options that change nothing are taken as they are', async () => {
    const folder = await copyTinyModel('tiny-b')
    await editJson(join(folder, 'unet/config.json'), {
      dropout: 0.1,
      upcast_attention: true,
      sample_size: 64,
      act_fn: 'swish',
    })
    await editJson(join(folder, 'vae/config.json'), { force_upcast: false, sample_size: 1 })
    // SDXL's own files say 2, which transformers reads as "the highest id".
    await editJson(join(folder, 'text_encoder_2/config.json'), { eos_token_id: 2 })
    expect(await networksIn(folder)).toEqual(tinyBNetworks)
  })
})

test('the tokenizer beside a single file is needed when the vocabulary is not the standard one', async () => {
  const file = await writeTinyBSingleFile()
  await cp(file, join(dirname(file), 'other.safetensors'))
  await expect(openCheckpoint(join(dirname(file), 'other.safetensors'))).rejects.toMatchObject(
    refused('wrong_architecture', 'needs it in the folder'),
  )
})

test('nothing there, and a file that is no model', async () => {
  const folder = await temporaryFolder('nothing')
  await expect(openCheckpoint(join(folder, 'none'))).rejects.toMatchObject(refused('model_not_found', 'does not exist'))
  await mkdir(join(folder, 'empty'))
  await expect(openCheckpoint(join(folder, 'empty'))).rejects.toMatchObject(
    refused('model_not_found', 'model_index.json'),
  )
  await writeFile(join(folder, 'model.ckpt'), 'PK\u0003\u0004 and the rest of an archive')
  await expect(openCheckpoint(join(folder, 'model.ckpt'))).rejects.toMatchObject(refused('bad_file', 'a zip archive'))
})

test('the projection of encoder 2 is turned into memory, all else stays in its file', async () => {
  const single = await openCheckpoint(await writeTinyBSingleFile())
  const inMemory = (weights: ReadonlyMap<string, StoredTensor>): string[] =>
    [...weights].filter(([, { source }]) => 'bytes' in source).map(([key]) => key)
  expect(inMemory(single.textEncoder2.weights)).toEqual(['text_projection.weight'])
  expect([single.textEncoder!, single.unet, single.vae!].flatMap(({ weights }) => inMemory(weights))).toEqual([])
})
