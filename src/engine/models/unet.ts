// The denoising UNet of Stable Diffusion XL (arXiv 2307.01952) as an ONNX graph, from diffusers' UNet2DConditionModel
// with text_time conditioning. Reads top to bottom as the data flows: time embedding, down, middle, up, out; as one graph
// or as two.
import { AppError } from '../../errors.ts'
import type { FloatFormat } from '../backend.ts'
import type { Quantization } from '../quantize/quantization.ts'
import { GraphBuilder, type Graph, type Value } from '../onnx/graph-builder.ts'
import { conv2d, groupNorm, linear, silu, upsample, type LayerOptions } from '../onnx/layers.ts'
import type { UNetBlock, UNetConfig } from './unet-config.ts'
import { resnetBlock } from './unet-resnet.ts'
import type { UNetScope } from './unet-scope.ts'
import { transformer } from './unet-transformer.ts'

export type UNetGraphOptions = LayerOptions & {
  readonly precision: FloatFormat
  readonly batch: number
  /** Latent rows and columns. */
  readonly height: number
  readonly width: number
  /** Tokens of the prompt: 77 a chunk; null: each run tells its own. */
  readonly textLength: number | null
  /** Paths of linears and convolutions that take a low-rank branch from the inputs, see layers.ts. */
  readonly loraTargets: ReadonlySet<string>
  /** Whether a ControlNet's residuals are inputs. */
  readonly controlResiduals: boolean
  /** Layers that compute in 8-bit integers, with weights rounded for it (quantize/quantized-weights.ts); without it none do. */
  readonly quantization?: Quantization | undefined
  /** Called when the network is built, to add outputs to it. */
  readonly observe?: ((g: GraphBuilder) => void) | undefined
}

/**
 * One evaluation of the network at a fixed size.
 * Inputs: `sample` (B, inChannels, H, W); `time_proj` (B, timeProjDim) and `add_embeds` (B, addEmbeddingInputDim), see
 * time-embedding.ts; `encoder_hidden_states` (B, T, crossAttentionDim); with controlResiduals also
 * `down_block_additional_residuals.<i>`, one a skip connection, and `mid_block_additional_residual`.
 * Output: `noise_pred` (B, outChannels, H, W).
 */
export function unetGraph(config: UNetConfig, options: UNetGraphOptions): Graph {
  const scope = openScope(config, options)
  wayUp(scope, wayDown(scope))
  options.observe?.(scope.g)
  return scope.g.finish()
}

/**
 * The same in two graphs with about as many layers each, which can be loaded side by side. What the second one reads of the
 * first, its skip connections and the time, are outputs and inputs of the same names, `carried.<i>`.
 */
export function unetHalves(config: UNetConfig, options: Omit<UNetGraphOptions, 'observe'>): readonly [Graph, Graph] {
  const first = openScope(config, options)
  const { skips, x } = wayDown(first)
  const g = builderOf(options)
  let carried = 0
  const carry = (value: Value): Value => {
    const name = `carried.${carried++}`
    if (value.shape.length !== 4) {
      first.g.output(name, value)
      return g.input(name, value.shape)
    }
    // Channels last, as the kernels of convolutions leave and want them: nothing has to be moved.
    const pixels = first.g.transpose(value, [0, 2, 3, 1])
    first.g.output(name, pixels)
    return g.transpose(g.input(name, pixels.shape), [0, 3, 1, 2])
  }
  const second = { ...first, g, temb: carry(first.temb), context: textContext(g, config, options) }
  wayUp(second, { x: carry(x), skips: skips.map(carry) })
  return [first.g.finish(), g.finish()]
}

/** A feature map, and the skip connections that are still to be used. */
type Halfway = { readonly x: Value; readonly skips: Value[] }

type WholeScope = UNetScope & { readonly config: UNetConfig; readonly options: UNetGraphOptions }

/** The embedding of timestep, sizes and pooled text, and the text. */
function openScope(config: UNetConfig, options: UNetGraphOptions): WholeScope {
  const g = builderOf(options)
  const context = textContext(g, config, options)
  return { g, config, options, temb: silu(g, timeEmbedding(g, config, options.batch)), context }
}

function builderOf({ loraTargets, precision, quantization }: UNetGraphOptions): GraphBuilder {
  return new GraphBuilder('unet', precision, loraTargets, quantization)
}

function textContext(g: GraphBuilder, config: UNetConfig, { batch, textLength }: UNetGraphOptions): Value {
  const text = g.input('encoder_hidden_states', [batch, textLength ?? 'text_length', config.crossAttentionDim])
  return g.reshape(text, [textLength === null ? -1 : batch * textLength, config.crossAttentionDim])
}

/** From the latents to the smallest feature map: every resnet and downsampler leaves a skip connection. */
function wayDown(scope: WholeScope): Halfway {
  const { config, g, options } = scope
  const { batch, height, width } = options
  const sample = g.input('sample', [batch, config.inChannels, height, width])
  let x = conv2d(g, sample, 'conv_in', config.downBlocks[0].channels)
  const skips = [x]
  config.downBlocks.forEach((block, index) => {
    x = downBlock(scope, x, `down_blocks.${index}`, block, skips)
  })
  const residuals = options.controlResiduals ? addControlResiduals(g, skips) : skips
  if (config.midBlock) x = midBlock(scope, x, config.midBlock)
  if (options.controlResiduals) x = g.add(x, g.input('mid_block_additional_residual', x.shape))
  return { x, skips: residuals }
}

/** And back to the noise, using the skip connections, last first. */
function wayUp(scope: WholeScope, { skips, x: smallest }: Halfway): void {
  const { config, g } = scope
  let x = smallest
  config.upBlocks.forEach((block, index) => {
    x = upBlock(scope, x, `up_blocks.${index}`, block, skips)
  })
  if (skips.length > 0)
    throw new AppError('wrong_architecture', `unet: ${skips.length} skip connections are left after the last up block`)
  const normed = silu(g, groupNorm(g, x, 'conv_norm_out', config.normNumGroups, config.normEps))
  g.output('noise_pred', conv2d(g, normed, 'conv_out', config.outChannels))
}

/** time_embedding(timestep) + add_embedding(pooled text, time ids). (B, timeEmbedDim) */
function timeEmbedding(g: GraphBuilder, config: UNetConfig, batch: number): Value {
  const twoLinears = (input: Value, path: string): Value =>
    linear(
      g,
      silu(g, linear(g, input, `${path}.linear_1`, config.timeEmbedDim)),
      `${path}.linear_2`,
      config.timeEmbedDim,
    )
  const time = twoLinears(g.input('time_proj', [batch, config.timeProjDim]), 'time_embedding')
  const added = twoLinears(g.input('add_embeds', [batch, config.addEmbeddingInputDim]), 'add_embedding')
  return g.add(time, added)
}

function downBlock(scope: UNetScope, input: Value, path: string, block: UNetBlock, skips: Value[]): Value {
  let x = input
  let attentions = 0
  block.transformers.forEach((depth, index) => {
    x = resnetBlock(scope, x, `${path}.resnets.${index}`, block.channels)
    if (depth !== null) x = transformer(scope, x, `${path}.attentions.${attentions++}`, depth, block.heads)
    skips.push(x)
  })
  if (block.resample) {
    x = conv2d(scope.g, x, `${path}.downsamplers.0.conv`, block.channels, { stride: 2 })
    skips.push(x)
  }
  return x
}

function midBlock(scope: UNetScope, input: Value, block: NonNullable<UNetConfig['midBlock']>): Value {
  const channels = input.shape[1]
  let x = resnetBlock(scope, input, 'mid_block.resnets.0', channels)
  let attentions = 0
  block.transformers.forEach((depth, index) => {
    if (depth !== null) x = transformer(scope, x, `mid_block.attentions.${attentions++}`, depth, block.heads)
    x = resnetBlock(scope, x, `mid_block.resnets.${index + 1}`, channels)
  })
  return x
}

function upBlock(scope: UNetScope, input: Value, path: string, block: UNetBlock, skips: Value[]): Value {
  const { g } = scope
  let x = input
  let attentions = 0
  block.transformers.forEach((depth, index) => {
    const skip = skips.pop()
    if (!skip) throw new AppError('wrong_architecture', `${path}: no skip connection is left for its resnet ${index}`)
    x = resnetBlock(scope, g.concat([x, skip], 1), `${path}.resnets.${index}`, block.channels)
    if (depth !== null) x = transformer(scope, x, `${path}.attentions.${attentions++}`, depth, block.heads)
  })
  if (!block.resample) return x
  const [, , height, width] = skips.at(-1)!.shape as [number, number, number, number]
  return conv2d(g, upsample(g, x, height, width), `${path}.upsamplers.0.conv`, block.channels)
}

function addControlResiduals(g: GraphBuilder, skips: readonly Value[]): Value[] {
  return skips.map((skip, index) => g.add(skip, g.input(`down_block_additional_residuals.${index}`, skip.shape)))
}
