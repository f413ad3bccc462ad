// Configurations of networks in one line of words each.
import type { ClipTextConfig } from '../models/clip-text-config.ts'
import type { UNetBlock, UNetConfig } from '../models/unet-config.ts'
import { vaeScaleFactor, type VaeConfig } from '../models/vae-config.ts'
import type { CheckpointKind } from './checkpoint.ts'

const kindWords = { base: '', refiner: ' refiner', inpainting: ' inpainting' } as const

/** Channels and transformers of SDXL's own UNets, as {@link describeUNet} writes them. */
const sdxlStructures = {
  base: 'channels 320/640/1280, transformers 0 0, 2 2, 10 10, middle 10, 10 10 10, 2 2 2, 0 0 0',
  refiner: 'channels 384/768/1536/1536, transformers 0 0, 4 4, 4 4, 0 0, middle 4, 0 0 0, 4 4 4, 4 4 4, 0 0 0',
} as const

/** The name of a model's architecture, and whether its UNet is SDXL's own. */
export function describeArchitecture(kind: CheckpointKind, unet: UNetConfig): string {
  const own = sdxlStructures[kind === 'refiner' ? 'refiner' : 'base']
  const structure = structureOf(unet)
  const [channels] = own.split(', ')
  if (structure === own) return `Stable Diffusion XL${kindWords[kind]}`
  const difference = structure.startsWith(`${channels}, `) ? 'a UNet of fewer or other layers' : 'a UNet of other sizes'
  return `Stable Diffusion XL${kindWords[kind]}, with ${difference}`
}

/** A UNet's channels, transformer depths by block, inputs and outputs. */
export function describeUNet(config: UNetConfig): string {
  const { inChannels, outChannels, crossAttentionDim } = config
  return `${structureOf(config)}, ${inChannels} → ${outChannels} channels, text of ${crossAttentionDim}`
}

/** A text encoder's layers, width, activation, vocabulary and pooled width. */
export function describeClipText(config: ClipTextConfig): string {
  const { numHiddenLayers, hiddenSize, numAttentionHeads, hiddenAct, vocabSize, projectionDim } = config
  const pooled = projectionDim === null ? '' : `, pooled ${projectionDim}`
  return `${numHiddenLayers} layers of ${hiddenSize}, ${numAttentionHeads} head${numAttentionHeads === 1 ? '' : 's'}, ${hiddenAct}, ${vocabSize} tokens${pooled}`
}

/** A VAE's channels, factor, latent channels and scaling. */
export function describeVae(config: VaeConfig): string {
  const { blockOutChannels, latentChannels, scalingFactor } = config
  return `channels ${blockOutChannels.join('/')}, factor ${vaeScaleFactor(config)}, ${latentChannels} latent channels, scaling ${scalingFactor}`
}

function structureOf({ downBlocks, midBlock, upBlocks }: UNetConfig): string {
  const depths = (transformers: UNetBlock['transformers']): string => transformers.map((depth) => depth ?? 0).join(' ')
  const middle = midBlock === null ? 'no middle' : `middle ${depths(midBlock.transformers) || '0'}`
  const down = downBlocks.map((block) => depths(block.transformers))
  const up = upBlocks.map((block) => depths(block.transformers))
  return `channels ${downBlocks.map(({ channels }) => channels).join('/')}, transformers ${[...down, middle, ...up].join(', ')}`
}
