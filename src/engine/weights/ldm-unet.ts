// The UNet of a single file (the names of Stability AI's generative-models). Such a file has no config: blocks,
// depths and widths are read off its modules, one after the other, so that pruned and uneven networks need no table.
import { AppError } from '../../errors.ts'
import type { UNetBlock, UNetConfig } from '../models/unet-config.ts'
import { maxLayers, shapeOfRank, type KeyMap, type Shapes } from './ldm-keys.ts'
import { MissingTensorsError } from './match-weights.ts'
import { headsOf } from './unet-options.ts'

/** What the rest of the file says about the UNet's conditioning. */
export type LdmConditioning = { readonly pooledDim: number; readonly timeIds: number }

/** Channels of one attention head; SDXL's configuration says it, single files cannot. */
const headDim = 64

/** One numbered module: where it stands in diffusers' network, and of which kind it is. */
type Module = { readonly path: string; readonly kind: 'resnet' | 'transformer' | 'conv' }
type Modules = Map<string, Module>

const resnetNames: Readonly<Record<string, string>> = {
  'in_layers.0': 'norm1',
  'in_layers.2': 'conv1',
  'out_layers.0': 'norm2',
  'out_layers.3': 'conv2',
  'emb_layers.1': 'time_emb_proj',
  skip_connection: 'conv_shortcut',
}

const fixedNames: Readonly<Record<string, string>> = {
  'time_embed.0': 'time_embedding.linear_1',
  'time_embed.2': 'time_embedding.linear_2',
  'label_emb.0.0': 'add_embedding.linear_1',
  'label_emb.0.2': 'add_embedding.linear_2',
  'input_blocks.0.0': 'conv_in',
  'out.0': 'conv_norm_out',
  'out.2': 'conv_out',
}

/**
 * The configuration of the UNet whose tensors (names without `model.diffusion_model.`) have these shapes, and the map
 * from its names to diffusers'. Throws `missing_tensors` where the structure cannot be seen, `wrong_architecture`
 * where it is none of ours.
 */
export function readLdmUNet(shapes: Shapes, conditioning: LdmConditioning): { config: UNetConfig; map: KeyMap } {
  const names = groupByModule(shapes)
  const modules: Modules = new Map()
  const need = (name: string, rank: number): readonly number[] => {
    const shape = shapeOfRank('unet', shapes, name, rank)
    if (shape === null) throw missing(name)
    return shape
  }
  const downBlocks = readDown(names, modules)
  const midBlock = readMiddle(names, modules)
  const upBlocks = readUp(names, modules)
  const [timeEmbedDim, timeProjDim] = need('time_embed.0.weight', 2)
  const [, addEmbeddingInputDim] = need('label_emb.0.0.weight', 2)
  const additionTimeEmbedDim = (addEmbeddingInputDim - conditioning.pooledDim) / conditioning.timeIds
  if (!Number.isInteger(additionTimeEmbedDim) || additionTimeEmbedDim < 1)
    throw new AppError(
      'wrong_architecture',
      `unet: label_emb takes ${addEmbeddingInputDim} values, which is not the pooled text's ${conditioning.pooledDim} and ${conditioning.timeIds} time ids`,
    )
  const config: UNetConfig = {
    inChannels: need('input_blocks.0.0.weight', 4)[1],
    outChannels: need('out.2.weight', 4)[0],
    downBlocks,
    midBlock,
    upBlocks,
    crossAttentionDim: need(firstEnding(shapes, '.attn2.to_k.weight'), 2)[1],
    timeProjDim,
    timeEmbedDim,
    additionTimeEmbedDim,
    addEmbeddingInputDim,
    normNumGroups: 32,
    normEps: 1e-5,
    flipSinToCos: true,
    freqShift: 0,
    resnetTimeScaleShift: timeScaleShift(shapes),
    useLinearProjection: shapes.get(firstEnding(shapes, '.proj_in.weight'))!.length === 2,
  }
  return { config, map: (name) => diffusersKeys(name, modules) }
}

/** Module prefix (`input_blocks.4.1`, `middle_block.0`) → name in the module → shape. */
type Names = ReadonlyMap<string, ReadonlyMap<string, readonly number[]>>

const modulePattern = /^((?:input_blocks|output_blocks)\.\d+\.\d+|middle_block\.\d+)\.(.+)$/

function groupByModule(shapes: Shapes): Names {
  const groups = new Map<string, Map<string, readonly number[]>>()
  for (const [name, shape] of shapes) {
    const match = modulePattern.exec(name)
    if (!match) continue
    const group = groups.get(match[1]) ?? new Map<string, readonly number[]>()
    groups.set(match[1], group.set(match[2], shape))
  }
  return groups
}

function readDown(names: Names, modules: Modules): UNetBlock[] {
  const blocks: UNetBlock[] = []
  let open = newBlock()
  for (let at = 1; hasBlock(names, `input_blocks.${at}`); at++) {
    const path = `down_blocks.${blocks.length}`
    if (kindOf(names.get(`input_blocks.${at}.0`)) === 'down') {
      modules.set(`input_blocks.${at}.0.op`, { path: `${path}.downsamplers.0.conv`, kind: 'conv' })
      blocks.push(finish(open, path, true))
      open = newBlock()
    } else readLayer(names, modules, `input_blocks.${at}`, path, open)
  }
  if (open.transformers.length > 0) blocks.push(finish(open, `down_blocks.${blocks.length}`, false))
  if (blocks.length === 0) throw missing('input_blocks.1.*')
  return blocks
}

function readUp(names: Names, modules: Modules): UNetBlock[] {
  const blocks: UNetBlock[] = []
  let open = newBlock()
  for (let at = 0; hasBlock(names, `output_blocks.${at}`); at++) {
    const path = `up_blocks.${blocks.length}`
    readLayer(names, modules, `output_blocks.${at}`, path, open)
    const upsampler = ['1', '2'].find((place) => kindOf(names.get(`output_blocks.${at}.${place}`)) === 'up')
    if (upsampler === undefined) continue
    modules.set(`output_blocks.${at}.${upsampler}.conv`, { path: `${path}.upsamplers.0.conv`, kind: 'conv' })
    blocks.push(finish(open, path, true))
    open = newBlock()
  }
  if (open.transformers.length > 0) blocks.push(finish(open, `up_blocks.${blocks.length}`, false))
  if (blocks.length === 0) throw missing('output_blocks.0.*')
  return blocks
}

/** Resnets and transformers in any alternation; null when the file has no middle block. */
function readMiddle(names: Names, modules: Modules): UNetConfig['midBlock'] {
  const transformers: (number | null)[] = []
  let channels = 0
  let resnets = 0
  let attentions = 0
  for (let at = 0; names.has(`middle_block.${at}`); at++) {
    const module = names.get(`middle_block.${at}`)!
    if (kindOf(module) === 'transformer') {
      modules.set(`middle_block.${at}`, { path: `mid_block.attentions.${attentions++}`, kind: 'transformer' })
      transformers[resnets - 1] = depthOf(module)
    } else {
      if (resnets > 0) transformers[resnets - 1] ??= null
      modules.set(`middle_block.${at}`, { path: `mid_block.resnets.${resnets++}`, kind: 'resnet' })
      channels = channelsOf(module, `middle_block.${at}`)
    }
  }
  return resnets === 0 ? null : { transformers, heads: headsOf(transformers, headsIn(channels, transformers)) }
}

type OpenBlock = { readonly transformers: (number | null)[]; readonly channels: number[]; attentions: number }

function newBlock(): OpenBlock {
  return { transformers: [], channels: [], attentions: 0 }
}

/** One resnet, and the transformer behind it where there is one. */
function readLayer(names: Names, modules: Modules, prefix: string, path: string, block: OpenBlock): void {
  const resnet = names.get(`${prefix}.0`)
  if (resnet === undefined) throw missing(`${prefix}.0.*`)
  modules.set(`${prefix}.0`, { path: `${path}.resnets.${block.transformers.length}`, kind: 'resnet' })
  block.channels.push(channelsOf(resnet, `${prefix}.0`))
  const behind = names.get(`${prefix}.1`)
  if (behind === undefined || kindOf(behind) !== 'transformer') {
    block.transformers.push(null)
    return
  }
  modules.set(`${prefix}.1`, { path: `${path}.attentions.${block.attentions++}`, kind: 'transformer' })
  block.transformers.push(depthOf(behind))
}

function finish(block: OpenBlock, path: string, resample: boolean): UNetBlock {
  const [channels] = block.channels
  if (channels === undefined || block.channels.some((count) => count !== channels))
    throw new AppError(
      'wrong_architecture',
      `unet: ${path} has resnets of ${block.channels.join(', ')} channels, expected one width`,
    )
  const { transformers } = block
  return { channels, transformers, heads: headsOf(transformers, headsIn(channels, transformers)), resample }
}

function headsIn(channels: number, transformers: readonly (number | null)[]): number {
  if (transformers.some((depth) => depth !== null) && channels % headDim !== 0)
    throw new AppError(
      'wrong_architecture',
      `unet: ${channels} channels with attention, expected a multiple of ${headDim}`,
    )
  return channels / headDim
}

function hasBlock(names: Names, prefix: string): boolean {
  return ['0', '1', '2'].some((place) => names.has(`${prefix}.${place}`))
}

/** The kind of a module by any of its names, so that a missing tensor is not taken for another structure. */
function kindOf(module: ReadonlyMap<string, unknown> | undefined): 'down' | 'up' | 'transformer' | 'resnet' | null {
  if (module === undefined) return null
  const has = (prefix: string): boolean => [...module.keys()].some((name) => name.startsWith(prefix))
  if (has('op.')) return 'down'
  if (has('conv.')) return 'up'
  if (has('transformer_blocks.') || has('proj_in.') || has('proj_out.')) return 'transformer'
  return 'resnet'
}

function depthOf(module: ReadonlyMap<string, unknown>): number {
  const indexes = [...module.keys()].map((name) => Number(/^transformer_blocks\.(\d+)\./.exec(name)?.[1] ?? -1))
  return Math.max(-1, ...indexes.filter((index) => index < maxLayers)) + 1
}

/** Output channels of a resnet: the length of any tensor that has them first. */
function channelsOf(module: ReadonlyMap<string, readonly number[]>, prefix: string): number {
  for (const layer of ['out_layers.3', 'out_layers.0', 'in_layers.2'])
    for (const name of ['weight', 'bias']) {
      const shape = module.get(`${layer}.${name}`)
      if (shape !== undefined && shape.length > 0) return shape[0]
    }
  throw new AppError('wrong_architecture', `unet: model.diffusion_model.${prefix} is no residual block`)
}

function timeScaleShift(shapes: Shapes): UNetConfig['resnetTimeScaleShift'] {
  const [embedded] = shapes.get(firstEnding(shapes, 'input_blocks.1.0.emb_layers.1.weight'))!
  const [channels] = shapes.get(firstEnding(shapes, 'input_blocks.1.0.out_layers.3.weight'))!
  return embedded === channels * 2 ? 'scale_shift' : 'default'
}

function firstEnding(shapes: Shapes, ending: string): string {
  for (const name of shapes.keys()) if (name.endsWith(ending)) return name
  throw missing(`*${ending}`)
}

/** The error for tensors without which the structure cannot be seen. */
function missing(name: string): AppError {
  return new MissingTensorsError('unet', [`model.diffusion_model.${name}`])
}

/** diffusers' key of one tensor; null when the name belongs to no module. */
function diffusersKeys(name: string, modules: ReadonlyMap<string, Module>): ReturnType<KeyMap> {
  const split = /^(.*)\.(weight|bias)$/.exec(name)
  if (!split) return null
  const [, owner, kind] = split
  if (Object.hasOwn(fixedNames, owner)) return [{ key: `${fixedNames[owner]}.${kind}` }]
  const conv = modules.get(owner)
  if (conv?.kind === 'conv') return [{ key: `${conv.path}.${kind}` }]
  const match = modulePattern.exec(name)
  const module = match && modules.get(match[1])
  if (!match || !module) return null
  if (module.kind === 'transformer') return [{ key: `${module.path}.${match[2]}` }]
  const inner = match[2].slice(0, -kind.length - 1)
  return Object.hasOwn(resnetNames, inner) ? [{ key: `${module.path}.${resnetNames[inner]}.${kind}` }] : null
}
