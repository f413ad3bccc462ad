// diffusers' config.json of an AutoencoderKL.
import type { VaeConfig } from '../models/vae-config.ts'
import { count, flag, layerCount, real, refuseOthers, unsupported, widths, type Options } from './config-options.ts'

const read = [
  'block_out_channels',
  'down_block_types',
  'in_channels',
  'latent_channels',
  'latents_mean',
  'latents_std',
  'layers_per_block',
  'mid_block_add_attention',
  'norm_num_groups',
  'out_channels',
  'scaling_factor',
  'shift_factor',
  'up_block_types',
  'use_post_quant_conv',
  'use_quant_conv',
] as const

/** Of no effect: force_upcast guards against fp16, and this network always runs in fp32. */
const free = ['force_upcast', 'sample_size'] as const

/**
 * The configuration in an AutoencoderKL's config.json. Throws `wrong_architecture` for an option that changes numbers
 * and is not implemented, `bad_file` for a value of the wrong kind.
 */
export function vaeConfigOf(options: Options): VaeConfig {
  const { _class_name: name } = options.values
  if (name !== undefined && name !== 'AutoencoderKL')
    throw unsupported(options, '_class_name', 'supported: AutoencoderKL')
  refuseOthers(options, { read, free, required: { act_fn: ['silu', 'swish'] } })
  const blockOutChannels = widths(options, 'block_out_channels')
  allOf(options, 'down_block_types', blockOutChannels.length, 'DownEncoderBlock2D')
  allOf(options, 'up_block_types', blockOutChannels.length, 'UpDecoderBlock2D')
  const latentChannels = count(options, 'latent_channels', 4)
  const scalingFactor = real(options, 'scaling_factor', 0.18215)
  if (scalingFactor === 0) throw unsupported(options, 'scaling_factor', 'not 0')
  const { shift_factor: shift } = options.values
  return {
    inChannels: count(options, 'in_channels', 3),
    outChannels: count(options, 'out_channels', 3),
    latentChannels,
    blockOutChannels,
    layersPerBlock: layerCount(options, 'layers_per_block', 1),
    normNumGroups: count(options, 'norm_num_groups', 32),
    midBlockAddAttention: flag(options, 'mid_block_add_attention', true),
    useQuantConv: flag(options, 'use_quant_conv', true),
    usePostQuantConv: flag(options, 'use_post_quant_conv', true),
    scalingFactor,
    shiftFactor: shift === undefined || shift === null ? null : real(options, 'shift_factor'),
    latentsMean: perChannel(options, 'latents_mean', latentChannels),
    latentsStd: perChannel(options, 'latents_std', latentChannels),
  }
}

function allOf(options: Options, key: string, length: number, type: string): void {
  const value = options.values[key]
  if (!Array.isArray(value) || value.length !== length || value.some((item) => item !== type))
    throw unsupported(options, key, `supported: ${length} times ${type}`)
}

function perChannel(options: Options, key: string, channels: number): readonly number[] | null {
  const value = options.values[key]
  if (value === undefined || value === null) return null
  if (!Array.isArray(value) || value.length !== channels || !value.every((item) => Number.isFinite(item)))
    throw unsupported(options, key, `null or ${channels} numbers`)
  return value as number[]
}
