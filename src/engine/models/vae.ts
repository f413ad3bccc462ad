// The autoencoder between pixels and latents (arXiv 2112.10752) as two ONNX graphs, from diffusers' AutoencoderKL.
import type { FloatFormat } from '../backend.ts'
import { GraphBuilder, type Graph, type Value } from '../onnx/graph-builder.ts'
import { attention, conv2d, groupNorm, linear, silu, upsample } from '../onnx/layers.ts'
import { vaeScaleFactor, type VaeConfig } from './vae-config.ts'

export type VaeGraphOptions = {
  readonly precision: FloatFormat
  readonly attention: 'fused' | 'plain'
  readonly batch: number
  /** Latent rows and columns. */
  readonly height: number
  readonly width: number
  /** State-dict paths of resnets whose residual branch is zero and left out. */
  readonly silent?: ReadonlySet<string>
}

type Scope = {
  readonly g: GraphBuilder
  readonly attention: 'fused' | 'plain'
  readonly normNumGroups: number
  readonly silent?: ReadonlySet<string> | undefined
}

function scopeOf(g: GraphBuilder, { normNumGroups }: VaeConfig, { attention: kind, silent }: VaeGraphOptions): Scope {
  return { g, attention: kind, normNumGroups, silent }
}

/** Epsilon of every norm in an AutoencoderKL. */
export const epsilon = 1e-6

/** Latents → picture. Input: `latents` (B, latentChannels, h, w), unscaled. Output: `image` (B, 3, H, W), about −1..1. */
export function vaeDecoderGraph(config: VaeConfig, options: VaeGraphOptions): Graph {
  const g = new GraphBuilder('vae decoder', options.precision)
  const x = decoderBlocks(g, config, options, config.blockOutChannels.length)
  const normed = silu(g, groupNorm(g, x, 'decoder.conv_norm_out', config.normNumGroups, epsilon))
  g.output('image', conv2d(g, normed, 'decoder.conv_out', config.outChannels))
  return g.finish()
}

/** The decoder from its input to the resnets of its up block number `count`, whose upsampler is left out. */
export function decoderBlocks(g: GraphBuilder, config: VaeConfig, options: VaeGraphOptions, count: number): Value {
  const scope = scopeOf(g, config, options)
  const channels = config.blockOutChannels.toReversed()
  const latents = g.input('latents', [options.batch, config.latentChannels, options.height, options.width])
  const quantised = config.usePostQuantConv
    ? conv2d(g, latents, 'post_quant_conv', config.latentChannels, { kernel: 1 })
    : latents
  let x = midBlock(
    scope,
    conv2d(g, quantised, 'decoder.conv_in', channels[0]),
    'decoder.mid_block',
    config.midBlockAddAttention,
  )
  channels.slice(0, count).forEach((outChannels, index) => {
    const path = `decoder.up_blocks.${index}`
    for (let layer = 0; layer <= config.layersPerBlock; layer++)
      x = resnet(scope, x, `${path}.resnets.${layer}`, outChannels)
    if (index < count - 1) {
      const [, , height, width] = x.shape as [number, number, number, number]
      x = conv2d(g, upsample(g, x, height * 2, width * 2), `${path}.upsamplers.0.conv`, outChannels)
    }
  })
  return x
}

/**
 * Picture → distribution of latents. Input: `image` (B, 3, H, W) in −1..1. Output: `moments` (B, 2·latentChannels, h, w),
 * means and log variances, unscaled.
 */
export function vaeEncoderGraph(config: VaeConfig, options: VaeGraphOptions): Graph {
  const g = new GraphBuilder('vae encoder', options.precision)
  const scope = scopeOf(g, config, options)
  const factor = vaeScaleFactor(config)
  const image = g.input('image', [options.batch, config.inChannels, options.height * factor, options.width * factor])
  let x = conv2d(g, image, 'encoder.conv_in', config.blockOutChannels[0])
  config.blockOutChannels.forEach((outChannels, index) => {
    const path = `encoder.down_blocks.${index}`
    for (let layer = 0; layer < config.layersPerBlock; layer++)
      x = resnet(scope, x, `${path}.resnets.${layer}`, outChannels)
    if (index < config.blockOutChannels.length - 1)
      x = conv2d(g, x, `${path}.downsamplers.0.conv`, outChannels, { stride: 2, padding: 0, padEnd: 1 })
  })
  x = midBlock(scope, x, 'encoder.mid_block', config.midBlockAddAttention)
  const normed = silu(g, groupNorm(g, x, 'encoder.conv_norm_out', config.normNumGroups, epsilon))
  const moments = conv2d(g, normed, 'encoder.conv_out', config.latentChannels * 2)
  g.output(
    'moments',
    config.useQuantConv ? conv2d(g, moments, 'quant_conv', config.latentChannels * 2, { kernel: 1 }) : moments,
  )
  return g.finish()
}

function midBlock(scope: Scope, input: Value, path: string, addAttention: boolean): Value {
  const channels = input.shape[1]
  const x = resnet(scope, input, `${path}.resnets.0`, channels)
  const attended = addAttention ? vaeSelfAttention(scope, x, `${path}.attentions.0`) : x
  return resnet(scope, attended, `${path}.resnets.1`, channels)
}

function resnet({ g, normNumGroups, silent }: Scope, x: Value, path: string, outChannels: number): Value {
  const shortcut = (): Value =>
    x.shape[1] === outChannels ? x : conv2d(g, x, `${path}.conv_shortcut`, outChannels, { kernel: 1 })
  if (silent?.has(path)) return shortcut()
  const norm = (value: Value, name: string): Value => groupNorm(g, value, `${path}.${name}`, normNumGroups, epsilon)
  const hidden = conv2d(g, silu(g, norm(x, 'norm1')), `${path}.conv1`, outChannels)
  const residual = conv2d(g, silu(g, norm(hidden, 'norm2')), `${path}.conv2`, outChannels)
  return g.add(shortcut(), residual)
}

/** One head of attention over all pixels, (B, C, H, W) → same. */
export function vaeSelfAttention({ g, attention: kind, normNumGroups }: Scope, x: Value, path: string): Value {
  const [batch, channels, height, width] = x.shape as [number, number, number, number]
  const normed = groupNorm(g, x, `${path}.group_norm`, normNumGroups, epsilon)
  const tokens = g.reshape(g.transpose(normed, [0, 2, 3, 1]), [batch * height * width, channels])
  const project = (value: Value, name: string): Value => linear(g, value, `${path}.${name}`, channels)
  const qkv = [project(tokens, 'to_q'), project(tokens, 'to_k'), project(tokens, 'to_v')] as const
  const attended = project(attention(g, qkv, { batch, heads: 1, kind, name: path }), 'to_out.0')
  return g.add(x, g.transpose(g.reshape(attended, [batch, height, width, channels]), [0, 3, 1, 2]))
}
