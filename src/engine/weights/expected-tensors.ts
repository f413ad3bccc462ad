// What a network's configuration says about its weights: every state-dict key of diffusers with its shape. Opening a
// checkpoint compares the files with these lists.
import type { ClipTextConfig } from '../models/clip-text-config.ts'
import type { UNetBlock, UNetConfig } from '../models/unet-config.ts'
import type { VaeConfig } from '../models/vae-config.ts'

/** State-dict key → shape. */
export type ExpectedTensors = ReadonlyMap<string, readonly number[]>

type Shapes = Map<string, readonly number[]>

/**
 * The tensors of a UNet. Transformers of a block are numbered without gaps, also where only some of its resnets have
 * one (which diffusers' own files never do).
 */
export function expectedUNetTensors(config: UNetConfig): ExpectedTensors {
  const shapes: Shapes = new Map()
  const { timeEmbedDim: temb } = config
  linear(shapes, 'time_embedding.linear_1', config.timeProjDim, temb)
  linear(shapes, 'time_embedding.linear_2', temb, temb)
  linear(shapes, 'add_embedding.linear_1', config.addEmbeddingInputDim, temb)
  linear(shapes, 'add_embedding.linear_2', temb, temb)

  const first = config.downBlocks[0].channels
  conv(shapes, 'conv_in', config.inChannels, first)
  let channels = first
  const skips = [first]
  for (const [index, block] of config.downBlocks.entries()) {
    const path = `down_blocks.${index}`
    let attentions = 0
    for (const [layer, depth] of block.transformers.entries()) {
      unetResnet(shapes, `${path}.resnets.${layer}`, channels, block.channels, config)
      if (depth !== null) transformer(shapes, `${path}.attentions.${attentions++}`, block.channels, depth, config)
      channels = block.channels
      skips.push(channels)
    }
    if (block.resample) {
      conv(shapes, `${path}.downsamplers.0.conv`, channels, channels)
      skips.push(channels)
    }
  }
  if (config.midBlock !== null) middle(shapes, config.midBlock.transformers, channels, config)
  for (const [index, block] of config.upBlocks.entries())
    channels = upBlock(shapes, `up_blocks.${index}`, block, channels, skips, config)
  norm(shapes, 'conv_norm_out', channels)
  conv(shapes, 'conv_out', channels, config.outChannels)
  return shapes
}

function middle(shapes: Shapes, transformers: readonly (number | null)[], channels: number, config: UNetConfig): void {
  unetResnet(shapes, 'mid_block.resnets.0', channels, channels, config)
  let attentions = 0
  for (const [index, depth] of transformers.entries()) {
    if (depth !== null) transformer(shapes, `mid_block.attentions.${attentions++}`, channels, depth, config)
    unetResnet(shapes, `mid_block.resnets.${index + 1}`, channels, channels, config)
  }
}

function upBlock(
  shapes: Shapes,
  path: string,
  block: UNetBlock,
  inChannels: number,
  skips: number[],
  config: UNetConfig,
): number {
  let channels = inChannels
  let attentions = 0
  for (const [layer, depth] of block.transformers.entries()) {
    // More resnets than skip connections: the graph builder says so, here the shape is a guess that no file fits.
    const skip = skips.pop() ?? 0
    unetResnet(shapes, `${path}.resnets.${layer}`, channels + skip, block.channels, config)
    if (depth !== null) transformer(shapes, `${path}.attentions.${attentions++}`, block.channels, depth, config)
    channels = block.channels
  }
  if (block.resample) conv(shapes, `${path}.upsamplers.0.conv`, channels, channels)
  return channels
}

function unetResnet(shapes: Shapes, path: string, input: number, output: number, config: UNetConfig): void {
  resnet(shapes, path, input, output)
  const factor = config.resnetTimeScaleShift === 'scale_shift' ? 2 : 1
  linear(shapes, `${path}.time_emb_proj`, config.timeEmbedDim, output * factor)
}

function transformer(shapes: Shapes, path: string, channels: number, depth: number, config: UNetConfig): void {
  const project = config.useLinearProjection ? linear : conv1x1
  norm(shapes, `${path}.norm`, channels)
  project(shapes, `${path}.proj_in`, channels, channels)
  for (let index = 0; index < depth; index++) {
    const block = `${path}.transformer_blocks.${index}`
    for (const name of ['norm1', 'norm2', 'norm3']) norm(shapes, `${block}.${name}`, channels)
    for (const [name, source] of [
      ['attn1', channels],
      ['attn2', config.crossAttentionDim],
    ] as const) {
      shapes.set(`${block}.${name}.to_q.weight`, [channels, channels])
      shapes.set(`${block}.${name}.to_k.weight`, [channels, source])
      shapes.set(`${block}.${name}.to_v.weight`, [channels, source])
      linear(shapes, `${block}.${name}.to_out.0`, channels, channels)
    }
    linear(shapes, `${block}.ff.net.0.proj`, channels, channels * 8)
    linear(shapes, `${block}.ff.net.2`, channels * 4, channels)
  }
  project(shapes, `${path}.proj_out`, channels, channels)
}

/** The tensors of a CLIP text encoder, with the prefix `text_model.` whatever the file's writer did. */
export function expectedClipTextTensors(config: ClipTextConfig): ExpectedTensors {
  const shapes: Shapes = new Map()
  const { hiddenSize: width } = config
  shapes.set('text_model.embeddings.token_embedding.weight', [config.vocabSize, width])
  shapes.set('text_model.embeddings.position_embedding.weight', [config.maxPositionEmbeddings, width])
  for (let index = 0; index < config.numHiddenLayers; index++) {
    const layer = `text_model.encoder.layers.${index}`
    for (const name of ['q_proj', 'k_proj', 'v_proj', 'out_proj'])
      linear(shapes, `${layer}.self_attn.${name}`, width, width)
    norm(shapes, `${layer}.layer_norm1`, width)
    norm(shapes, `${layer}.layer_norm2`, width)
    linear(shapes, `${layer}.mlp.fc1`, width, config.intermediateSize)
    linear(shapes, `${layer}.mlp.fc2`, config.intermediateSize, width)
  }
  norm(shapes, 'text_model.final_layer_norm', width)
  if (config.projectionDim !== null) shapes.set('text_projection.weight', [config.projectionDim, width])
  return shapes
}

/** The tensors of an AutoencoderKL, encoder and decoder. */
export function expectedVaeTensors(config: VaeConfig): ExpectedTensors {
  const shapes: Shapes = new Map()
  const { blockOutChannels: levels, latentChannels: latent, layersPerBlock: layers } = config
  const last = levels.at(-1)!

  conv(shapes, 'encoder.conv_in', config.inChannels, levels[0])
  let channels = levels[0]
  for (const [level, output] of levels.entries()) {
    const path = `encoder.down_blocks.${level}`
    for (let layer = 0; layer < layers; layer++, channels = output)
      resnet(shapes, `${path}.resnets.${layer}`, channels, output)
    if (level < levels.length - 1) conv(shapes, `${path}.downsamplers.0.conv`, output, output)
  }
  vaeMiddle(shapes, 'encoder', last, config)
  norm(shapes, 'encoder.conv_norm_out', last)
  conv(shapes, 'encoder.conv_out', last, latent * 2)
  if (config.useQuantConv) conv1x1(shapes, 'quant_conv', latent * 2, latent * 2)

  if (config.usePostQuantConv) conv1x1(shapes, 'post_quant_conv', latent, latent)
  conv(shapes, 'decoder.conv_in', latent, last)
  vaeMiddle(shapes, 'decoder', last, config)
  channels = last
  for (const [index, output] of levels.toReversed().entries()) {
    const path = `decoder.up_blocks.${index}`
    for (let layer = 0; layer <= layers; layer++, channels = output)
      resnet(shapes, `${path}.resnets.${layer}`, channels, output)
    if (index < levels.length - 1) conv(shapes, `${path}.upsamplers.0.conv`, output, output)
  }
  norm(shapes, 'decoder.conv_norm_out', channels)
  conv(shapes, 'decoder.conv_out', channels, config.outChannels)
  return shapes
}

function vaeMiddle(shapes: Shapes, half: 'encoder' | 'decoder', channels: number, config: VaeConfig): void {
  const path = `${half}.mid_block`
  resnet(shapes, `${path}.resnets.0`, channels, channels)
  if (config.midBlockAddAttention) {
    norm(shapes, `${path}.attentions.0.group_norm`, channels)
    for (const name of ['to_q', 'to_k', 'to_v', 'to_out.0'])
      linear(shapes, `${path}.attentions.0.${name}`, channels, channels)
  }
  resnet(shapes, `${path}.resnets.1`, channels, channels)
}

function resnet(shapes: Shapes, path: string, input: number, output: number): void {
  norm(shapes, `${path}.norm1`, input)
  conv(shapes, `${path}.conv1`, input, output)
  norm(shapes, `${path}.norm2`, output)
  conv(shapes, `${path}.conv2`, output, output)
  if (input !== output) conv1x1(shapes, `${path}.conv_shortcut`, input, output)
}

function linear(shapes: Shapes, path: string, input: number, output: number): void {
  shapes.set(`${path}.weight`, [output, input])
  shapes.set(`${path}.bias`, [output])
}

function conv(shapes: Shapes, path: string, input: number, output: number): void {
  shapes.set(`${path}.weight`, [output, input, 3, 3])
  shapes.set(`${path}.bias`, [output])
}

function conv1x1(shapes: Shapes, path: string, input: number, output: number): void {
  shapes.set(`${path}.weight`, [output, input, 1, 1])
  shapes.set(`${path}.bias`, [output])
}

function norm(shapes: Shapes, path: string, channels: number): void {
  shapes.set(`${path}.weight`, [channels])
  shapes.set(`${path}.bias`, [channels])
}
