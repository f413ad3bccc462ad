// The text encoders of a single file: the first under transformers' names, the second under OpenCLIP's.
import { AppError } from '../../errors.ts'
import type { ClipTextConfig } from '../models/clip-text-config.ts'
import { maxLayers, shapeOfRank, type KeyMap, type Shapes } from './ldm-keys.ts'
import { MissingTensorsError } from './match-weights.ts'

/** Channels of one attention head in CLIP ViT-L and OpenCLIP ViT-bigG; single files cannot say it. */
const headDim = 64

/**
 * Encoder 1: tensors named as in transformers (names without `conditioner.embedders.0.transformer.`).
 * Throws `missing_tensors` where the structure cannot be seen.
 */
export function readLdmClipText(shapes: Shapes): { config: ClipTextConfig; map: KeyMap } {
  const need = needs(shapes, 'textEncoder', 'conditioner.embedders.0.transformer.')
  const [vocabSize, hiddenSize] = need('text_model.embeddings.token_embedding.weight')
  const config: ClipTextConfig = {
    vocabSize,
    hiddenSize,
    intermediateSize: need('text_model.encoder.layers.0.mlp.fc1.weight')[0],
    numHiddenLayers: countLayers(shapes, 'text_model.encoder.layers.'),
    numAttentionHeads: headsOf('textEncoder', hiddenSize),
    maxPositionEmbeddings: need('text_model.embeddings.position_embedding.weight')[0],
    hiddenAct: 'quick_gelu',
    layerNormEps: 1e-5,
    projectionDim: null,
  }
  return { config, map: (name) => [{ key: name }] }
}

/**
 * Encoder 2, and the refiner's only one: OpenCLIP's names (without their prefix), q, k and v in one tensor, the
 * projection stored the other way round. `prefix` is for messages.
 */
export function readOpenClipText(shapes: Shapes, prefix: string): { config: ClipTextConfig; map: KeyMap } {
  const need = needs(shapes, 'textEncoder2', prefix)
  const [vocabSize, hiddenSize] = need('token_embedding.weight')
  const linear = shapes.has('text_projection.weight')
  const config: ClipTextConfig = {
    vocabSize,
    hiddenSize,
    intermediateSize: need('transformer.resblocks.0.mlp.c_fc.weight')[0],
    numHiddenLayers: countLayers(shapes, 'transformer.resblocks.'),
    numAttentionHeads: headsOf('textEncoder2', hiddenSize),
    maxPositionEmbeddings: need('positional_embedding')[0],
    hiddenAct: 'gelu',
    layerNormEps: 1e-5,
    projectionDim: need(linear ? 'text_projection.weight' : 'text_projection')[linear ? 0 : 1],
  }
  return { config, map: openClipKeys }
}

const layerNames: Readonly<Record<string, string>> = {
  'attn.out_proj': 'self_attn.out_proj',
  ln_1: 'layer_norm1',
  ln_2: 'layer_norm2',
  'mlp.c_fc': 'mlp.fc1',
  'mlp.c_proj': 'mlp.fc2',
}

const fixedKeys: Readonly<Record<string, string>> = {
  positional_embedding: 'text_model.embeddings.position_embedding.weight',
  'token_embedding.weight': 'text_model.embeddings.token_embedding.weight',
  'ln_final.weight': 'text_model.final_layer_norm.weight',
  'ln_final.bias': 'text_model.final_layer_norm.bias',
  // Files written by ComfyUI hold it as a linear already.
  'text_projection.weight': 'text_projection.weight',
}

const openClipKeys: KeyMap = (name) => {
  if (name === 'text_projection') return [{ key: 'text_projection.weight', form: 'transposed' }]
  if (Object.hasOwn(fixedKeys, name)) return [{ key: fixedKeys[name] }]
  const match = /^transformer\.resblocks\.(\d+)\.(.+)[._](weight|bias)$/.exec(name)
  if (!match) return null
  const [, layer, inner, kind] = match
  const path = `text_model.encoder.layers.${layer}`
  if (inner === 'attn.in_proj')
    return ['q', 'k', 'v'].map((letter, index) => ({
      key: `${path}.self_attn.${letter}_proj.${kind}`,
      part: { index, of: 3 },
    }))
  return Object.hasOwn(layerNames, inner) ? [{ key: `${path}.${layerNames[inner]}.${kind}` }] : null
}

function needs(shapes: Shapes, component: string, prefix: string): (name: string) => readonly number[] {
  return (name) => {
    const shape = shapeOfRank(component, shapes, name, 2)
    if (shape === null) throw new MissingTensorsError(component, [prefix + name])
    return shape
  }
}

function countLayers(shapes: Shapes, prefix: string): number {
  let layers = 0
  for (const name of shapes.keys()) {
    const layer = name.startsWith(prefix) ? Number.parseInt(name.slice(prefix.length), 10) : -1
    if (layer < maxLayers) layers = Math.max(layers, layer + 1)
  }
  return layers
}

function headsOf(component: string, hiddenSize: number): number {
  if (hiddenSize % headDim !== 0)
    throw new AppError('wrong_architecture', `${component}: ${hiddenSize} channels, expected a multiple of ${headDim}`)
  return hiddenSize / headDim
}
