import type { Value } from '../onnx/graph-builder.ts'
import { attention, conv2d, gelu, groupNorm, layerNorm, linear, linearHalf } from '../onnx/layers.ts'
import type { UNetScope } from './unet-scope.ts'

/** Epsilon of a transformer's own norms; diffusers fixes it whatever the UNet's norm_eps says. */
const groupNormEpsilon = 1e-6
const layerNormEpsilon = 1e-5

/** `depth` blocks of attention over the pixels of a feature map (diffusers' Transformer2DModel). (B, C, H, W) → same. */
export function transformer(scope: UNetScope, x: Value, path: string, depth: number, heads: number): Value {
  const { g, config } = scope
  const [batch, channels, height, width] = x.shape as [number, number, number, number]
  const rows = batch * height * width
  // Of a norm over (N, C) OpenVINO makes the scale and the bias a part of the rounding behind it, whose ranges then differ
  // from column to column, for which it has a slow kernel. Of one over (1, N, C) it does not.
  const shape = g.quantization?.weightLayout === 'rows' ? [1, rows, channels] : [rows, channels]
  const toTokens = (map: Value): Value => g.reshape(g.transpose(map, [0, 2, 3, 1]), shape)
  const toMap = (tokens: Value): Value => g.transpose(g.reshape(tokens, [batch, height, width, channels]), [0, 3, 1, 2])

  const normed = groupNorm(g, x, `${path}.norm`, config.normNumGroups, groupNormEpsilon)
  let tokens = config.useLinearProjection
    ? project(scope, toTokens(normed), `${path}.proj_in`, channels)
    : toTokens(conv2d(g, normed, `${path}.proj_in`, channels, { kernel: 1 })) // (B·H·W, C) or (1, B·H·W, C)
  for (let index = 0; index < depth; index++)
    tokens = transformerBlock(scope, tokens, `${path}.transformer_blocks.${index}`, batch, heads)
  const projected = config.useLinearProjection
    ? toMap(project(scope, tokens, `${path}.proj_out`, channels))
    : conv2d(g, toMap(tokens), `${path}.proj_out`, channels, { kernel: 1 })
  return g.add(projected, x)
}

/** Self-attention, cross-attention to the text, gated feed-forward; each on normed input and added back. */
function transformerBlock(scope: UNetScope, input: Value, path: string, batch: number, heads: number): Value {
  const { g, context } = scope
  const norm = (x: Value, name: string): Value => layerNorm(g, x, `${path}.${name}`, layerNormEpsilon)
  const attend = (x: Value, source: Value, name: string): Value =>
    attentionLayer(scope, x, source, `${path}.${name}`, batch, heads)

  const normed = norm(input, 'norm1')
  const afterSelf = g.add(attend(normed, normed, 'attn1'), input)
  const afterCross = g.add(attend(norm(afterSelf, 'norm2'), context, 'attn2'), afterSelf)
  return g.add(feedForward(scope, norm(afterCross, 'norm3'), `${path}.ff`), afterCross)
}

function attentionLayer(scope: UNetScope, x: Value, source: Value, path: string, batch: number, heads: number): Value {
  const channels = x.shape.at(-1)!
  const { attention: kind } = scope.options
  const q = project(scope, x, `${path}.to_q`, channels, false)
  const k = project(scope, source, `${path}.to_k`, channels, false)
  const v = project(scope, source, `${path}.to_v`, channels, false)
  return project(scope, attention(scope.g, [q, k, v], { batch, heads, kind, name: path }), `${path}.to_out.0`, channels)
}

/** GEGLU (arXiv 2002.05202): half of a wide projection gates the other half, then back to the old width. */
function feedForward(scope: UNetScope, x: Value, path: string): Value {
  const { g } = scope
  const [hidden, gate] = gatedHalves(scope, x, `${path}.net.0.proj`)
  return project(scope, g.multiply(hidden, gelu(g, gate)), `${path}.net.2`, x.shape.at(-1)!)
}

/** Both halves of the wide projection: as two linears, which saves a copy, or split after a LoRA branch over both. */
function gatedHalves({ g }: UNetScope, x: Value, path: string): [hidden: Value, gate: Value] {
  const count = x.shape.at(-1)! * 4
  if (g.loraTargets.has(path)) {
    const wide = linear(g, x, path, count * 2)
    const half = [...x.shape.slice(0, -1), count]
    const [hidden, gate] = g.split('Split', [wide], [half, half], { attributes: { axis: -1, num_outputs: 2 } })
    return [hidden, gate]
  }
  return [linearHalf(g, x, path, count * 2, 0), linearHalf(g, x, path, count * 2, 1)]
}

function project(scope: UNetScope, x: Value, path: string, outFeatures: number, bias = true): Value {
  return linear(scope.g, x, path, outFeatures, { bias })
}
