// diffusers' config.json of a UNet2DConditionModel, resolved to one entry a block.
import type { UNetBlock, UNetConfig } from '../models/unet-config.ts'
import {
  choice,
  count,
  flag,
  fraction,
  index,
  isCount,
  isLayerCount,
  perBlock,
  refuseOthers,
  unsupported,
  widths,
} from './config-options.ts'
import type { Options } from './config-options.ts'

const read = [
  'addition_embed_type',
  'addition_time_embed_dim',
  'attention_head_dim',
  'block_out_channels',
  'cross_attention_dim',
  'down_block_types',
  'flip_sin_to_cos',
  'freq_shift',
  'in_channels',
  'layers_per_block',
  'mid_block_type',
  'norm_eps',
  'norm_num_groups',
  'out_channels',
  'projection_class_embeddings_input_dim',
  'resnet_time_scale_shift',
  'reverse_transformer_layers_per_block',
  'time_embedding_dim',
  'transformer_layers_per_block',
  'up_block_types',
  'use_linear_projection',
] as const

/** Of no effect in inference with text_time conditioning; upcast_attention guards fp16 attention, ours is fp32. */
const free = ['addition_embed_type_num_heads', 'dropout', 'sample_size', 'upcast_attention'] as const

const required = {
  act_fn: ['silu', 'swish'],
  attention_type: ['default'],
  conv_in_kernel: [3],
  conv_out_kernel: [3],
  downsample_padding: [1],
  mid_block_scale_factor: [1],
  only_cross_attention: [false, null],
  resnet_out_scale_factor: [1],
  time_embedding_type: ['positional'],
} as const

/**
 * The resolved configuration of a UNet's config.json. Throws `wrong_architecture` for an option that changes numbers
 * and is not implemented, `bad_file` for a value of the wrong kind.
 */
export function unetConfigOf(options: Options): UNetConfig {
  refuseOthers(options, { read, free, required })
  const channels = widths(options, 'block_out_channels')
  const levels = channels.length
  const layers = perBlock(options, 'layers_per_block', levels, isLayerCount, 'a whole number', 2)
  const heads = perBlock(options, 'attention_head_dim', levels, isCount, 'a whole number', 8)
  if (channels.some((width, level) => width % heads[level] !== 0))
    throw unsupported(options, 'attention_head_dim', `numbers of heads that divide ${channels.join(', ')} channels`)
  const crossDims = perBlock(options, 'cross_attention_dim', levels, isCount, 'a whole number', 1280)
  if (crossDims.some((dim) => dim !== crossDims[0]))
    throw unsupported(options, 'cross_attention_dim', 'one width for all blocks')
  choice(options, 'addition_embed_type', ['text_time'])
  const depths = perBlock(options, 'transformer_layers_per_block', levels, isDepth, 'a number or list of numbers', 1)
  const reversed =
    options.values['reverse_transformer_layers_per_block'] === undefined ||
    options.values['reverse_transformer_layers_per_block'] === null
      ? depths.toReversed()
      : perBlock(options, 'reverse_transformer_layers_per_block', levels, isDepth, 'a number or list of numbers')
  const down = blockTypes(options, 'down_block_types', levels, ['DownBlock2D', 'CrossAttnDownBlock2D'])
  const up = blockTypes(options, 'up_block_types', levels, ['UpBlock2D', 'CrossAttnUpBlock2D'])
  const block = (level: number, resnets: number, depth: Depth, type: string, resample: boolean): UNetBlock => {
    const transformers = type.startsWith('CrossAttn') ? depthsOf(options, depth, resnets) : noTransformers(resnets)
    return { channels: channels[level], transformers, heads: headsOf(transformers, heads[level]), resample }
  }
  return {
    inChannels: count(options, 'in_channels', 4),
    outChannels: count(options, 'out_channels', 4),
    downBlocks: down.map((type, level) => block(level, layers[level], depths[level], type, level < levels - 1)),
    midBlock: midBlock(options, depths[levels - 1], heads[levels - 1]),
    upBlocks: up.map((type, at) => {
      const level = levels - 1 - at
      return block(level, layers[level] + 1, reversed[at], type, at < levels - 1)
    }),
    crossAttentionDim: crossDims[0],
    timeProjDim: channels[0],
    timeEmbedDim: count(options, 'time_embedding_dim', channels[0] * 4),
    additionTimeEmbedDim: count(options, 'addition_time_embed_dim'),
    addEmbeddingInputDim: count(options, 'projection_class_embeddings_input_dim'),
    normNumGroups: count(options, 'norm_num_groups', 32),
    normEps: fraction(options, 'norm_eps', 1e-5),
    flipSinToCos: flag(options, 'flip_sin_to_cos', true),
    freqShift: index(options, 'freq_shift', 0),
    resnetTimeScaleShift: choice(options, 'resnet_time_scale_shift', ['default', 'scale_shift'], 'default'),
    useLinearProjection: flag(options, 'use_linear_projection', false),
  }
}

/** Heads of a block; 0 where no transformer asks for them, so that every layout resolves to the same value. */
export function headsOf(transformers: readonly (number | null)[], heads: number): number {
  return transformers.every((depth) => depth === null) ? 0 : heads
}

type Depth = number | readonly number[]

function isDepth(value: unknown): value is Depth {
  const isNumber = (item: unknown): boolean => item === 0 || isLayerCount(item)
  return isNumber(value) || (Array.isArray(value) && value.length > 0 && value.every(isNumber))
}

function depthsOf(options: Options, depth: Depth, resnets: number): readonly number[] {
  if (typeof depth === 'number') return Array.from({ length: resnets }, () => depth)
  if (depth.length < resnets)
    throw unsupported(
      options,
      'transformer_layers_per_block',
      `a list in it needs a number for each of ${resnets} resnets`,
    )
  return depth.slice(0, resnets)
}

function noTransformers(resnets: number): readonly null[] {
  return Array.from({ length: resnets }, () => null)
}

function midBlock(options: Options, depth: Depth, heads: number): UNetConfig['midBlock'] {
  if (options.values['mid_block_type'] === null) return null
  const type = choice(
    options,
    'mid_block_type',
    ['UNetMidBlock2DCrossAttn', 'UNetMidBlock2D'],
    'UNetMidBlock2DCrossAttn',
  )
  // diffusers builds UNetMidBlock2D without any layer here: one resnet.
  if (type === 'UNetMidBlock2D') return { transformers: [], heads: 0 }
  return { transformers: [typeof depth === 'number' ? depth : depth[0]], heads }
}

function blockTypes<T extends string>(
  options: Options,
  key: string,
  levels: number,
  allowed: readonly T[],
): readonly T[] {
  const fits = (value: unknown): value is T => allowed.some((type) => type === value)
  const value = options.values[key]
  if (!Array.isArray(value) || value.length !== levels || !value.every(fits))
    throw unsupported(options, key, `supported: ${levels} of ${allowed.join(', ')}`)
  return value
}
