// The layers that SDXL's networks are made of, each as the few ONNX operators that run fastest on a CPU
// (docs/numerics.md has the measurements). `path` is the module's path in diffusers' state dict.
import { elementCount } from '#tensor/tensor.ts'
import { AppError } from '../../errors.ts'
import type { GraphBuilder, Value } from './graph-builder.ts'
import { int8Conv2d, int8Linear } from './int8-layers.ts'
import { elementTypes } from './proto.ts'

/** How a network's graph is emitted, beyond its configuration. */
export type LayerOptions = {
  /** `fused`: one MultiHeadAttention node; `plain`: MatMul and Softmax, for backends whose fused kernel is wrong. */
  readonly attention: 'fused' | 'plain'
}

/**
 * y = x·Wᵀ + b over rows. (…, in) → (…, out). Where `path` is a LoRA target, x·A·B is added: A (in, r) and B (r, out)
 * are the inputs `<path>.lora_A` and `<path>.lora_B`, alpha / rank and strength folded into B. Where the graph is
 * quantised at `path`, x·Wᵀ is computed in 8-bit integers, the branch is not.
 */
export function linear(
  g: GraphBuilder,
  x: Value,
  path: string,
  outFeatures: number,
  { bias = true }: { bias?: boolean } = {},
): Value {
  const inFeatures = x.shape.at(-1)!
  g.layerInputs.set(path, { value: x, kernel: 1 })
  const layer = g.quantization?.layers.get(path)
  let y: Value
  if (layer) y = int8Linear(g, x, layer, path, outFeatures, { bias })
  else {
    const weight = g.weight(`${path}.weight`, [outFeatures, inFeatures])
    y = product(g, x, weight, bias ? g.weight(`${path}.bias`, [outFeatures]) : null, path)
  }
  if (!g.loraTargets.has(path)) return y
  const a = g.input(`${path}.lora_A`, [inFeatures, `${path}.rank`])
  const b = g.input(`${path}.lora_B`, [`${path}.rank`, outFeatures])
  const down = g.node('MatMul', [x, a], [...x.shape.slice(0, -1), -1], { name: path })
  if (!takesGemm(g, x)) return g.add(y, g.node('MatMul', [down, b], y.shape, { name: path }))
  // With y as its third input the product is added where it is computed, without a pass of its own.
  return g.node('Gemm', [down, b, y], y.shape, { name: path })
}

/** One of two halves of a linear's `outFeatures`, without computing the other. (…, in) → (…, outFeatures / 2) */
export function linearHalf(g: GraphBuilder, x: Value, path: string, outFeatures: number, index: 0 | 1): Value {
  g.layerInputs.set(path, { value: x, kernel: 1 })
  const layer = g.quantization?.layers.get(path)
  if (layer) return int8Linear(g, x, layer, path, outFeatures, { share: { index, of: 2 } })
  const inFeatures = x.shape.at(-1)!
  const count = outFeatures / 2
  const first = index * count
  const weight = g.weightRows(`${path}.weight`, [outFeatures, inFeatures], first, count)
  const bias = g.weightRows(`${path}.bias`, [outFeatures], first, count)
  return product(g, x, weight, bias, path)
}

/** x·Wᵀ + b. (…, in), (out, in), (out) → (…, out) */
function product(g: GraphBuilder, x: Value, weight: Value, bias: Value | null, path: string): Value {
  const shape = [...x.shape.slice(0, -1), weight.shape[0]]
  if (!takesGemm(g, x)) {
    const y = g.node('MatMul', [x, g.transpose(weight, [1, 0])], shape, { name: path })
    return bias ? g.add(y, bias) : y
  }
  return g.node('Gemm', bias ? [x, weight, bias] : [x, weight], shape, { attributes: { transB: 1 }, name: path })
}

/** Whether a product of `x` can be a Gemm. Of one in bf16 OpenVINO's frontend makes a copy of the weights, multiplied by alpha's 1. */
function takesGemm(g: GraphBuilder, x: Value): boolean {
  return x.shape.length === 2 && g.precision !== 'bf16'
}

/**
 * A square convolution with bias; `padEnd` pads below and on the right. (B, in, H, W) → (B, out, H', W'). Where `path`
 * is a LoRA target, a convolution by `<path>.lora_A` (r, in, k, k) and a 1×1 one by `<path>.lora_B` (out, r, 1, 1) are added.
 */
export function conv2d(
  g: GraphBuilder,
  x: Value,
  path: string,
  outChannels: number,
  options: { kernel?: number; stride?: number; padding?: number; padEnd?: number } = {},
): Value {
  const { kernel = 3, stride = 1 } = options
  const padding = options.padding ?? (kernel - 1) / 2
  const padEnd = options.padEnd ?? padding
  const [batch, inChannels, height, width] = x.shape as [number, number, number, number]
  const out = (size: number): number => Math.floor((size + padding + padEnd - kernel) / stride) + 1
  const size = [out(height), out(width)] as const
  const attributes = {
    kernel_shape: [kernel, kernel],
    strides: [stride, stride],
    pads: [padding, padding, padEnd, padEnd],
  }
  g.layerInputs.set(path, { value: x, kernel })
  const layer = g.quantization?.layers.get(path)
  let y: Value
  if (layer) y = int8Conv2d(g, x, layer, path, outChannels, { kernel, stride, padding, padEnd, size })
  else {
    const weight = g.weight(`${path}.weight`, [outChannels, inChannels, kernel, kernel])
    const bias = g.weight(`${path}.bias`, [outChannels])
    y = g.node('Conv', [x, weight, bias], [batch, outChannels, ...size], { attributes, name: path })
  }
  if (!g.loraTargets.has(path)) return y
  const a = g.input(`${path}.lora_A`, [`${path}.rank`, inChannels, kernel, kernel])
  const b = g.input(`${path}.lora_B`, [outChannels, `${path}.rank`, 1, 1])
  const down = g.node('Conv', [x, a], [batch, -1, ...size], { attributes, name: path })
  return g.add(y, g.node('Conv', [down, b], y.shape, { attributes: { kernel_shape: [1, 1] }, name: path }))
}

/** GroupNorm with scale and bias a channel. (B, C, H, W) → same. InstanceNormalization over the groups is the quickest exact form. */
export function groupNorm(g: GraphBuilder, x: Value, path: string, groups: number, epsilon: number): Value {
  const [batch, channels] = x.shape as [number, number, number, number]
  if (channels % groups !== 0)
    throw new AppError('wrong_architecture', `${path}: ${channels} channels do not divide into ${groups} groups`)
  const grouped = g.node('Reshape', [x, g.integers([batch, groups, -1])], [batch, groups, -1])
  const normed = g.node(
    'InstanceNormalization',
    [grouped, constant(g, groups, 1), constant(g, groups, 0)],
    grouped.shape,
    {
      attributes: { epsilon: { float: epsilon } },
      name: path,
    },
  )
  const y = g.node('Reshape', [normed, g.integers(x.shape)], x.shape)
  const scaled = g.multiply(y, g.weight(`${path}.weight`, [channels], [channels, 1, 1]))
  return g.add(scaled, g.weight(`${path}.bias`, [channels], [channels, 1, 1]))
}

/** As many times one number. */
function constant(g: GraphBuilder, count: number, value: 0 | 1): Value {
  return g.floats(`${value}[${count}]`, [count], new Float32Array(count).fill(value))
}

/** LayerNorm over rows. (…, C) → same. */
export function layerNorm(g: GraphBuilder, x: Value, path: string, epsilon: number): Value {
  const size = x.shape.at(-1)!
  const [weight, bias] = [g.weight(`${path}.weight`, [size]), g.weight(`${path}.bias`, [size])]
  // With fp32 OpenVINO's frontend converts bf16 to it and back, though its kernel computes in fp32 in any case.
  const stash = g.precision === 'bf16' ? elementTypes.bfloat16 : elementTypes.float
  const norm = (...affine: Value[]): Value =>
    g.node('LayerNormalization', [x, ...affine], x.shape, {
      attributes: { axis: -1, epsilon: { float: epsilon }, stash_type: stash },
      name: path,
    })
  const y = norm(weight, bias)
  g.scaled.set(y.name, (factors) => norm(g.multiply(weight, factors), g.multiply(bias, factors)))
  g.bare.set(y.name, () => norm(constant(g, size, 1)))
  return y
}

/** x·sigmoid(x). */
export function silu(g: GraphBuilder, x: Value): Value {
  return sigmoidUnit(g, x, 1)
}

/** CLIP's quick approximation, x·sigmoid(1.702 x). */
export function quickGelu(g: GraphBuilder, x: Value): Value {
  return sigmoidUnit(g, x, 1.702)
}

/** The exact GELU, with the error function. */
export function gelu(g: GraphBuilder, x: Value): Value {
  return g.node('Gelu', [x], x.shape)
}

function sigmoidUnit(g: GraphBuilder, x: Value, alpha: number): Value {
  // OpenVINO's frontend has no QuickGelu of bf16, and makes one kernel of these as well.
  if (g.precision === 'bf16') {
    const scaled = alpha === 1 ? x : g.multiply(x, g.floats(`alpha[${alpha}]`, [], [alpha]))
    return g.multiply(x, g.node('Sigmoid', [scaled], x.shape))
  }
  return g.node('QuickGelu', [x], x.shape, { domain: 'com.microsoft', attributes: { alpha: { float: alpha } } })
}

/** Nearest-neighbour upsampling by two, cut to (height, width) where the skip connection is one row or column smaller. */
export function upsample(g: GraphBuilder, x: Value, height: number, width: number): Value {
  const [batch, channels, h, w] = x.shape as [number, number, number, number]
  const doubled = g.node('Resize', [x, null, g.scales([1, 1, 2, 2])], [batch, channels, h * 2, w * 2], {
    attributes: { mode: 'nearest', nearest_mode: 'floor', coordinate_transformation_mode: 'asymmetric' },
  })
  if (height === h * 2 && width === w * 2) return doubled
  const [starts, ends, axes] = [g.integers([0, 0]), g.integers([height, width]), g.integers([2, 3])]
  return g.node('Slice', [doubled, starts, ends, axes], [batch, channels, height, width])
}

/** Scaled dot-product attention over `heads` heads. q (…, C) of B·S rows, k and v of B·T → as q; T may be known at the run only. */
export function attention(
  g: GraphBuilder,
  [q, k, v]: readonly [Value, Value, Value],
  options: AttentionOptions,
  mask?: Value,
): Value {
  const y = attended(g, [q, k, v], options, mask)
  g.scaled.set(y.name, (factors) => attended(g, [q, k, scaled(g, v, factors)], options, mask))
  return y
}

type AttentionOptions = {
  readonly batch: number
  readonly heads: number
  readonly kind: LayerOptions['attention']
  readonly name: string
}

function attended(
  g: GraphBuilder,
  [q, k, v]: readonly [Value, Value, Value],
  { batch, heads, kind, name }: AttentionOptions,
  mask?: Value,
): Value {
  const channels = q.shape.at(-1)!
  const lengthOf = (x: Value): number => (x.shape.includes(-1) ? -1 : elementCount(x.shape) / (batch * channels))
  const batched = (x: Value): Value => g.reshape(x, [batch, lengthOf(x), channels])
  // OpenVINO makes one kernel of the plain form, too, which then also rounds what comes out.
  if (kind === 'fused' && !mask && g.quantization?.weightLayout !== 'rows') {
    const y = g.node('MultiHeadAttention', [batched(q), batched(k), batched(v)], [batch, lengthOf(q), channels], {
      domain: 'com.microsoft',
      attributes: { num_heads: heads },
      name,
    })
    return g.reshape(y, q.shape)
  }
  const size = channels / heads
  const split = (x: Value, perm: readonly number[]): Value =>
    g.transpose(g.reshape(x, [batch, lengthOf(x), heads, size]), perm)
  const scale = g.floats(`scale[${size}]`, [], [1 / Math.sqrt(size)])
  const scores = matMul(g, split(scaled(g, q, scale), [0, 2, 1, 3]), split(k, [0, 2, 3, 1])) // (B, heads, S, T)
  const masked = mask ? g.add(scores, mask) : scores
  const weights = g.node('Softmax', [masked], masked.shape, { attributes: { axis: -1 }, name })
  const y = matMul(g, weights, split(v, [0, 2, 1, 3])) // (B, heads, S, C/heads)
  return g.reshape(g.transpose(y, [0, 2, 1, 3]), q.shape)
}

/** A value times factors of its last axis, in what computes it where that can be. */
function scaled(g: GraphBuilder, x: Value, factors: Value): Value {
  return g.scaled.get(x.name)?.(factors) ?? g.multiply(x, factors)
}

function matMul(g: GraphBuilder, a: Value, b: Value): Value {
  return g.node('MatMul', [a, b], [...a.shape.slice(0, -1), b.shape.at(-1)!])
}
