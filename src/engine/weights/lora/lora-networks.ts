// What a LoRA may change: the linears, convolutions and norms of a base model's UNet and text encoders.
import type { ClipTextConfig } from '../../models/clip-text-config.ts'
import type { UNetConfig } from '../../models/unet-config.ts'
import type { Checkpoint } from '../checkpoint.ts'
import { expectedClipTextTensors, expectedUNetTensors, type ExpectedTensors } from '../expected-tensors.ts'
import { ldmPaths } from './ldm-paths.ts'
import { sdxlClipText, sdxlClipText2, sdxlUNet } from './sdxl-networks.ts'

/** The networks that a LoRA can change. */
export const loraNetworkNames = ['unet', 'textEncoder', 'textEncoder2'] as const
export type LoraNetworkName = (typeof loraNetworkNames)[number]

/** A module with a weight. */
export type LoraTarget = {
  readonly network: LoraNetworkName
  /** Its path in diffusers' state dict. */
  readonly path: string
  /** Its path in a single file; null in a text encoder. */
  readonly ldmPath: string | null
  readonly kind: 'linear' | 'conv' | 'norm'
  /** [O, I], [O, I, k, k] or [C]. */
  readonly weightShape: readonly number[]
  readonly hasBias: boolean
}

/** The modules of a base model, to hold LoRAs against. */
export type LoraNetworks = {
  /** What to call the model in messages. */
  readonly words: string
  readonly targets: readonly LoraTarget[]
}

type Configs = {
  readonly unet: UNetConfig
  readonly textEncoder: ClipTextConfig | null
  readonly textEncoder2: ClipTextConfig
}

const known = new WeakMap<Checkpoint, LoraNetworks>()
let standard: LoraNetworks | undefined

/** The modules of an opened model. */
export function loraNetworksOf(checkpoint: Checkpoint): LoraNetworks {
  const networks =
    known.get(checkpoint) ??
    networksOf('the model', {
      unet: checkpoint.unet.config,
      textEncoder: checkpoint.textEncoder?.config ?? null,
      textEncoder2: checkpoint.textEncoder2.config,
    })
  known.set(checkpoint, networks)
  return networks
}

/** The modules of Stable Diffusion XL's own base model. */
export function standardSdxlNetworks(): LoraNetworks {
  standard ??= networksOf('Stable Diffusion XL', {
    unet: sdxlUNet,
    textEncoder: sdxlClipText,
    textEncoder2: sdxlClipText2,
  })
  return standard
}

function networksOf(words: string, { unet, textEncoder, textEncoder2 }: Configs): LoraNetworks {
  const text = (network: LoraNetworkName, config: ClipTextConfig): LoraTarget[] =>
    targetsOf(network, expectedClipTextTensors(config), () => null)
  return {
    words,
    targets: [
      ...targetsOf('unet', expectedUNetTensors(unet), ldmPaths(unet)),
      ...(textEncoder ? text('textEncoder', textEncoder) : []),
      ...text('textEncoder2', textEncoder2),
    ],
  }
}

function targetsOf(
  network: LoraNetworkName,
  expected: ExpectedTensors,
  ldmPath: (path: string) => string | null,
): LoraTarget[] {
  const targets: LoraTarget[] = []
  for (const [key, weightShape] of expected) {
    // Embeddings are tables, not modules that a LoRA changes.
    if (!key.endsWith('.weight') || key.startsWith('text_model.embeddings.')) continue
    const path = key.slice(0, -'.weight'.length)
    const kind = weightShape.length === 1 ? 'norm' : weightShape.length === 2 ? 'linear' : 'conv'
    const hasBias = expected.has(`${path}.bias`)
    targets.push({ network, path, ldmPath: ldmPath(path), kind, weightShape, hasBias })
  }
  return targets
}
