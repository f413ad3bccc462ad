// The autoencoder of a single file (names of CompVis' latent-diffusion) and of older diffusers folders.
import type { VaeConfig } from '../models/vae-config.ts'
import { maxLayers, shapeOfRank, type KeyMap, type Shapes } from './ldm-keys.ts'
import { MissingTensorsError } from './match-weights.ts'

/** SDXL's; single files cannot say it. */
const sdxlScalingFactor = 0.13025

/**
 * The configuration of the autoencoder whose tensors (names without `first_stage_model.`) have these shapes.
 * Throws `missing_tensors` where the structure cannot be seen.
 */
export function readLdmVae(shapes: Shapes): { config: VaeConfig; map: KeyMap } {
  const need = (name: string): readonly number[] => {
    const shape = shapeOfRank('vae', shapes, name, 4)
    if (shape === null) throw new MissingTensorsError('vae', [`first_stage_model.${name}`])
    return shape
  }
  const names = [...shapes.keys()]
  const has = (prefix: string): boolean => names.some((name) => name.startsWith(prefix))
  const levels = countWhile((level) => has(`encoder.down.${level}.block.`))
  const last = levels - 1
  const config: VaeConfig = {
    inChannels: need('encoder.conv_in.weight')[1],
    outChannels: need('decoder.conv_out.weight')[0],
    latentChannels: need('decoder.conv_in.weight')[1],
    blockOutChannels: Array.from(
      { length: levels },
      (_, level) => need(`encoder.down.${level}.block.0.conv1.weight`)[0],
    ),
    layersPerBlock: countWhile((layer) => has(`encoder.down.0.block.${layer}.`)),
    normNumGroups: 32,
    midBlockAddAttention: has('encoder.mid.attn_1.') || has('decoder.mid.attn_1.'),
    useQuantConv: has('quant_conv.'),
    usePostQuantConv: has('post_quant_conv.'),
    scalingFactor: sdxlScalingFactor,
    shiftFactor: null,
    latentsMean: null,
    latentsStd: null,
  }
  return { config, map: (name) => diffusersKeys(name, last) }
}

function diffusersKeys(name: string, last: number): ReturnType<KeyMap> {
  const attention = /^(encoder|decoder)\.mid\.attn_1\.(norm|q|k|v|proj_out)\.(weight|bias)$/.exec(name)
  if (attention) {
    const [, half, layer, kind] = attention
    const path = `${half}.mid_block.attentions.0`
    if (layer === 'norm') return [{ key: `${path}.group_norm.${kind}` }]
    const target = layer === 'proj_out' ? 'to_out.0' : `to_${layer}`
    return [{ key: `${path}.${target}.${kind}`, ...(kind === 'weight' ? { form: 'squeezed' as const } : {}) }]
  }
  const key = name
    .replace(/^(encoder|decoder)\.mid\.block_(\d+)\./, (_, half, block) => `${half}.mid_block.resnets.${block - 1}.`)
    .replace(/^encoder\.down\.(\d+)\.block\./, 'encoder.down_blocks.$1.resnets.')
    .replace(/^encoder\.down\.(\d+)\.downsample\./, 'encoder.down_blocks.$1.downsamplers.0.')
    .replace(/^decoder\.up\.(\d+)\.block\./, (_, level) => `decoder.up_blocks.${last - level}.resnets.`)
    .replace(/^decoder\.up\.(\d+)\.upsample\./, (_, level) => `decoder.up_blocks.${last - level}.upsamplers.0.`)
    .replace('.nin_shortcut.', '.conv_shortcut.')
    .replace(/^(encoder|decoder)\.norm_out\./, '$1.conv_norm_out.')
  return [{ key }]
}

/** diffusers' key of a tensor in a VAE folder, which older versions named otherwise and kept as 1×1 convolutions. */
export const folderVaeKeys: KeyMap = (name) => {
  const match = /^(.*\.attentions\.0)\.(query|key|value|proj_attn|to_q|to_k|to_v|to_out\.0)\.(weight|bias)$/.exec(name)
  if (!match) return [{ key: name }]
  const [, path, layer, kind] = match
  const target = { query: 'to_q', key: 'to_k', value: 'to_v', proj_attn: 'to_out.0' }[layer] ?? layer
  return [{ key: `${path}.${target}.${kind}`, ...(kind === 'weight' ? { form: 'squeezed' as const } : {}) }]
}

function countWhile(test: (index: number) => boolean): number {
  let index = 0
  while (index < maxLayers && test(index)) index++
  return index
}
