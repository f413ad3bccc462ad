// Every name that a trainer may have given a module, made from the network's own paths. Names are looked up whole and
// never taken apart: a path holds the character that separates its parts in most spellings.
import { AppError } from '../../../errors.ts'
import type { LoraNetworkName, LoraNetworks, LoraTarget } from './lora-networks.ts'

/** Name before the suffix → module. */
export type LoraNames = {
  readonly modules: ReadonlyMap<string, LoraTarget>
  /** Names of diffusers' former attention processors, which have suffixes of their own. */
  readonly processors: ReadonlyMap<string, LoraTarget>
}

const known = new WeakMap<LoraNetworks, LoraNames>()

/** The names of all modules of some networks. */
export function loraNames(networks: LoraNetworks): LoraNames {
  const names = known.get(networks) ?? {
    modules: table(networks.targets, (target) => (target.network === 'unet' ? unetNames(target) : textNames(target))),
    processors: table(networks.targets, processorNames),
  }
  known.set(networks, names)
  return names
}

function table(targets: readonly LoraTarget[], namesOf: (target: LoraTarget) => string[]): Map<string, LoraTarget> {
  const names = new Map<string, LoraTarget>()
  for (const target of targets)
    for (const name of new Set(namesOf(target))) {
      const other = names.get(name)
      if (other) throw new AppError('internal', `lora: ${other.path} and ${target.path} would both be ${name}`)
      names.set(name, target)
    }
  return names
}

function unetNames({ path, ldmPath }: LoraTarget): string[] {
  return [
    `lora_unet_${underscored(path)}`, // OneTrainer, diffusers' kohya export
    `lycoris_${underscored(path)}`, // LyCORIS' own wrapper, SimpleTuner
    path, // former attention processors' files
    `unet.${path}`, // diffusers
    `base_model.model.${path}`, // PEFT
    `unet.base_model.model.${path}`,
    ...(ldmPath === null
      ? []
      : [
          `lora_unet_${underscored(ldmPath)}`, // kohya
          `diffusion_model.${ldmPath}`, // ComfyUI
          `diffusion_model_${underscored(ldmPath)}`, // sliders
        ]),
  ]
}

/** Prefixes of a text encoder's modules: with underscores behind the first, with dots behind the others. */
const textPrefixes = {
  textEncoder: ['lora_te1_', 'text_encoder.', 'text_encoders.clip_l.transformer.'],
  textEncoder2: ['lora_te2_', 'text_encoder_2.', 'text_encoders.clip_g.transformer.'],
} as const

function textNames({ network, path }: LoraTarget): string[] {
  const [underscores, ...dots] = textPrefixes[network as Exclude<LoraNetworkName, 'unet'>]
  return textPaths(path).flatMap((each) => dots.map((prefix) => prefix + each).concat(underscores + underscored(each)))
}

/** transformers has dropped the outer module since 5.6: both ways are about. */
function textPaths(path: string): string[] {
  return path.startsWith('text_model.') ? [path, path.slice('text_model.'.length)] : [path]
}

function processorNames({ network, path }: LoraTarget): string[] {
  const unet = /^(.+\.attn[12])\.(to_q|to_k|to_v|to_out)(?:\.0)?$/.exec(path)
  if (network === 'unet')
    return unet ? ['', 'unet.'].map((prefix) => `${prefix}${unet[1]}.processor.${unet[2]}_lora`) : []
  const [, , prefix] = ['', ...textPrefixes[network]]
  return textPaths(path).flatMap((each) => {
    const text = /^(.+\.self_attn)\.(q|k|v|out)_proj$/.exec(each)
    return text ? [`${prefix}${text[1]}.to_${text[2]}_lora`] : []
  })
}

function underscored(path: string): string {
  return path.replaceAll('.', '_')
}
