// CLIP's text encoder (arXiv 2103.00020) as an ONNX graph, from transformers' CLIPTextModel and
// CLIPTextModelWithProjection. It starts from looked-up token embeddings, so that textual inversions need no new graph.
import { GraphBuilder, type Graph, type Value } from '../onnx/graph-builder.ts'
import { attention, gelu, layerNorm, linear, quickGelu } from '../onnx/layers.ts'
import { AppError } from '../../errors.ts'
import type { FloatFormat } from '../backend.ts'
import type { ClipTextConfig } from './clip-text-config.ts'

export type ClipTextGraphOptions = {
  readonly precision: FloatFormat
  /** Chunks of 77 tokens that are encoded at once. */
  readonly batch: number
  /** Which hidden state is returned, counted from the end: 0 is the last layer's output, 1 the penultimate. */
  readonly skipLayers: number
  /** Whether the pooled, projected embedding is returned; needs a projection. */
  readonly pooled: boolean
  /** Paths of linears that take a low-rank branch from the inputs, see layers.ts; layers that are skipped take none. */
  readonly loraTargets?: ReadonlySet<string>
}

/** State-dict key of the table that turns token ids into embeddings, (vocabSize, hiddenSize). */
export const tokenEmbeddingKey = 'text_model.embeddings.token_embedding.weight'

/**
 * The text encoder for chunks of a fixed length.
 * Inputs: `token_embeds` (B, 77, C); `eos_positions` (B), int64, only when pooled.
 * Outputs: `hidden_states` (B, 77, C) without the final norm; `pooled` (B, projectionDim).
 */
export function clipTextGraph(config: ClipTextConfig, options: ClipTextGraphOptions): Graph {
  const { hiddenSize: channels, maxPositionEmbeddings: length, numHiddenLayers: layers } = config
  const { batch, skipLayers } = options
  if (skipLayers > layers)
    throw new AppError(
      'bad_argument',
      `clip_skip: this text encoder has ${layers} layers, ${skipLayers - 1} of them cannot be skipped`,
    )
  const g = new GraphBuilder('clip text encoder', options.precision, options.loraTargets)
  const positions = g.weight('text_model.embeddings.position_embedding.weight', [length, channels])
  const mask = causalMask(g, length)
  let x = g.reshape(g.add(g.input('token_embeds', [batch, length, channels]), positions), [batch * length, channels])
  for (let layer = 0; layer < layers; layer++) {
    if (layer === layers - skipLayers) {
      g.output('hidden_states', g.reshape(x, [batch, length, channels]))
      if (!options.pooled) return g.finish()
    }
    x = encoderLayer(g, x, `text_model.encoder.layers.${layer}`, config, batch, mask)
  }
  if (skipLayers === 0) g.output('hidden_states', g.reshape(x, [batch, length, channels]))
  if (options.pooled) g.output('pooled', pooledEmbedding(g, x, config, batch))
  return g.finish()
}

function encoderLayer(
  g: GraphBuilder,
  x: Value,
  path: string,
  config: ClipTextConfig,
  batch: number,
  mask: Value,
): Value {
  const { hiddenSize: channels, numAttentionHeads: heads, layerNormEps: epsilon } = config
  const activation = config.hiddenAct === 'quick_gelu' ? quickGelu : gelu
  const normed = layerNorm(g, x, `${path}.layer_norm1`, epsilon)
  const project = (name: string): Value => linear(g, normed, `${path}.self_attn.${name}`, channels)
  const qkv = [project('q_proj'), project('k_proj'), project('v_proj')] as const
  // The fused kernel loses its fast path with a mask, and 77 tokens are too few to need it.
  const attended = attention(g, qkv, { batch, heads, kind: 'plain', name: `${path}.self_attn` }, mask)
  const hidden = g.add(x, linear(g, attended, `${path}.self_attn.out_proj`, channels))
  const inner = linear(
    g,
    layerNorm(g, hidden, `${path}.layer_norm2`, epsilon),
    `${path}.mlp.fc1`,
    config.intermediateSize,
  )
  return g.add(hidden, linear(g, activation(g, inner), `${path}.mlp.fc2`, channels))
}

/** The last hidden state at each chunk's end-of-text token, normed and projected. (B·77, C) → (B, projectionDim). */
function pooledEmbedding(g: GraphBuilder, x: Value, config: ClipTextConfig, batch: number): Value {
  if (config.projectionDim === null) throw new AppError('internal', 'pooled: this text encoder has no projection')
  const { hiddenSize: channels, maxPositionEmbeddings: length } = config
  const rows = Array.from({ length: batch }, (_, chunk) => chunk * length)
  const positions = g.add(g.indexInput('eos_positions', [batch]), g.integers(rows))
  const last = layerNorm(
    g,
    g.node('Gather', [x, positions], [batch, channels]),
    'text_model.final_layer_norm',
    config.layerNormEps,
  )
  return linear(g, last, 'text_projection', config.projectionDim, { bias: false })
}

/** 0 on and below the diagonal, the lowest number above it: a token sees itself and what came before. (77, 77) */
function causalMask(g: GraphBuilder, length: number): Value {
  const lowest = g.precision === 'fp16' ? -65504 : -3.4028234663852886e38
  const values = Array.from({ length: length * length }, (_, index) =>
    index % length > Math.floor(index / length) ? lowest : 0,
  )
  return g.floats('causal_mask', [length, length], values)
}
