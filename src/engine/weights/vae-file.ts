// An autoencoder in a safetensors file of its own, under the names of a single file or of diffusers.
import { openSafetensors, type SafetensorsFile } from '#tensor/safetensors.ts'
import { AppError } from '../../errors.ts'
import { vaeScaleFactor, type VaeConfig } from '../models/vae-config.ts'
import type { Component } from './checkpoint.ts'
import { expectedVaeTensors } from './expected-tensors.ts'
import { maxLayers, shapeOfRank, type Shapes } from './ldm-keys.ts'
import { folderVaeKeys, readLdmVae } from './ldm-vae.ts'
import { matchWeights, MissingTensorsError, type FoundTensor } from './match-weights.ts'
import { recognise } from './recognise.ts'

/** What a file cannot say about its latents: they are those of the model that it decodes for. */
export type LatentSpace = Pick<
  VaeConfig,
  'latentChannels' | 'latentsMean' | 'latentsStd' | 'normNumGroups' | 'scalingFactor' | 'shiftFactor'
> & { readonly scaleFactor: number; readonly words: string }

/** Stable Diffusion XL's latents. */
export const standardLatentSpace: LatentSpace = {
  latentChannels: 4,
  scaleFactor: 8,
  scalingFactor: 0.13025,
  shiftFactor: null,
  latentsMean: null,
  latentsStd: null,
  normNumGroups: 32,
  words: 'Stable Diffusion XL',
}

/** What training leaves in files and inference does not read. */
const leftovers = /^(loss\.|model_ema\.(decay|num_updates)$)/
const prefix = 'first_stage_model.'

/** The latents of an opened VAE; `words` name its model. */
export function latentSpaceOf(config: VaeConfig, words: string): LatentSpace {
  return { ...config, scaleFactor: vaeScaleFactor(config), words }
}

/**
 * Open the autoencoder in the file at `path` for a model's latents. Throws `model_not_found`, `bad_file`,
 * `missing_tensors`, and `wrong_architecture` for another kind of file and for other latents.
 */
export async function openVaeFile(path: string, latents: LatentSpace): Promise<Component<VaeConfig>> {
  const file = await openSafetensors(path)
  const found = tensorsOf(file)
  const shapes: Shapes = new Map(found.map(({ name, shape }) => [name, shape]))
  const wrong = (problem: string): AppError => new AppError('wrong_architecture', `vae ${path}: ${problem}`)
  const isFolders = [...shapes.keys()].some((name) => /^(encoder\.down|decoder\.up)_blocks\./.test(name))
  const isLdm = [...shapes.keys()].some((name) => /^(encoder\.down|decoder\.up)\.\d/.test(name))
  if (isFolders === isLdm) throw wrong(`this is ${words(file)}, not an autoencoder (VAE)`)
  const { config: seen, map } = isLdm ? readLdmVae(shapes) : { config: readFolderVae(shapes), map: folderVaeKeys }

  const factor = vaeScaleFactor(seen)
  if (seen.latentChannels !== latents.latentChannels)
    throw wrong(`it has ${seen.latentChannels} latent channels, ${latents.words} has ${latents.latentChannels}`)
  if (factor !== latents.scaleFactor)
    throw wrong(`it makes ${factor} pixels of a latent, ${latents.words} ${latents.scaleFactor}`)
  const { latentsMean, latentsStd, normNumGroups, scalingFactor, shiftFactor } = latents
  const config = { ...seen, latentsMean, latentsStd, normNumGroups, scalingFactor, shiftFactor }
  return { name: 'vae', config, weights: await matchWeights('vae', found, map, expectedVaeTensors(config)) }
}

/** The tensors with bare names. A whole model is no VAE file: which part of it is meant would be a guess. */
function tensorsOf(file: SafetensorsFile): FoundTensor[] {
  const names = [...file.tensors.keys()]
  const isPrefixed = names.length > 0 && names.every((name) => name.startsWith(prefix))
  const found: FoundTensor[] = []
  for (const [stored, entry] of file.tensors) {
    const name = isPrefixed ? stored.slice(prefix.length) : stored
    if (!leftovers.test(name)) found.push({ ...entry, file: file.path, name })
  }
  return found
}

/** The configuration of an autoencoder whose tensors have diffusers' names, by their shapes. */
function readFolderVae(shapes: Shapes): VaeConfig {
  const need = (name: string): readonly number[] => {
    const shape = shapeOfRank('vae', shapes, name, 4)
    if (shape === null) throw new MissingTensorsError('vae', [name])
    return shape
  }
  const names = [...shapes.keys()]
  const has = (start: string): boolean => names.some((name) => name.startsWith(start))
  const levels = countWhile((level) => has(`encoder.down_blocks.${level}.`))
  return {
    inChannels: need('encoder.conv_in.weight')[1],
    outChannels: need('decoder.conv_out.weight')[0],
    latentChannels: need('decoder.conv_in.weight')[1],
    blockOutChannels: Array.from(
      { length: levels },
      (_, level) => need(`encoder.down_blocks.${level}.resnets.0.conv1.weight`)[0],
    ),
    layersPerBlock: countWhile((layer) => has(`encoder.down_blocks.0.resnets.${layer}.`)),
    midBlockAddAttention: has('encoder.mid_block.attentions.') || has('decoder.mid_block.attentions.'),
    useQuantConv: has('quant_conv.'),
    usePostQuantConv: has('post_quant_conv.'),
    normNumGroups: standardLatentSpace.normNumGroups,
    scalingFactor: standardLatentSpace.scalingFactor,
    shiftFactor: null,
    latentsMean: null,
    latentsStd: null,
  }
}

function words(file: SafetensorsFile): string {
  const shapes = new Map([...file.tensors].map(([name, { shape }]) => [name, shape]))
  if (
    [...shapes.keys()].some((name) => /^(decoder\.layers\.\d|encoder\.layers\.\d|\d+\.(conv\.0\.)?weight)/.test(name))
  )
    return 'a tiny autoencoder (TAESD), which is not supported'
  return recognise(shapes).words
}

function countWhile(test: (index: number) => boolean): number {
  let index = 0
  while (index < maxLayers && test(index)) index++
  return index
}
