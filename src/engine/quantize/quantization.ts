// Which layers of a network compute in 8-bit integers, and how their inputs become such: x ≈ scale · (q − zeroPoint), with
// weights w ≈ scale · q of their own scale for each output channel.
import { createHash } from 'node:crypto'
import type { Smoothing } from './smoothing.ts'

/** A range of values known beforehand as 256 steps: x ≈ scale · (q − zeroPoint), q in 0..255. */
export type InputRange = { readonly scale: number; readonly zeroPoint: number }

/** How one layer's input is rounded. */
export type QuantizedLayer = {
  /** Null: each row of a linear (each whole input of a convolution) by its own largest value, as it comes. */
  readonly range: InputRange | null
  /** What the input is divided and the weight multiplied by (arXiv 2211.10438); null: nothing. */
  readonly smoothing: Smoothing | null
  /** Path of the LayerNorm before it whose scale and bias are in its weight and bias (arXiv 2209.13325); null: none. */
  readonly norm: string | null
}

/** Path of a linear or convolution → how it computes; layers that are not in it compute in the graph's own numbers. */
export type QuantizedLayers = ReadonlyMap<string, QuantizedLayer>

/** How a network is quantised. */
export type Quantization = {
  readonly layers: QuantizedLayers
  /**
   * `columns`: weights lie as a right-hand matrix (in, out), as onnxruntime's kernels want them; `rows`: as in the
   * checkpoint (out, in), between QuantizeLinear and DequantizeLinear, which OpenVINO fuses with the layer.
   */
  readonly weightLayout: 'columns' | 'rows'
  /** Largest absolute value of a rounded weight: 127, or 64 where the CPU adds pairs of products in 16 bits. */
  readonly weightLimit: 127 | 64
}

/**
 * Layers whose rounding costs more than it gains: the first and last convolution, what runs over one row a picture, and
 * shortcuts and downsamplers. The latter take a hundredth of the time, and since no norm stands before them and their
 * results reach the last block by the skip connections, they made most of the whole network's error.
 */
const floatLayers =
  /^(?:conv_in|conv_out|time_embedding\..*|add_embedding\..*|.*\.(?:time_emb_proj|conv_shortcut|downsamplers\.0\.conv))$/

/** Paths of the linears and convolutions of a UNet that can be quantised, out of the shapes of its tensors. */
export function quantizableLayers(tensors: ReadonlyMap<string, { readonly shape: readonly number[] }>): string[] {
  const paths: string[] = []
  for (const [key, { shape }] of tensors) {
    if (!key.endsWith('.weight') || shape.length < 2) continue
    const path = key.slice(0, -'.weight'.length)
    if (!floatLayers.test(path)) paths.push(path)
  }
  return paths
}

/** Every layer that can be, by ranges that are found as the values come: what needs no calibration. */
export function dynamicLayers(tensors: ReadonlyMap<string, { readonly shape: readonly number[] }>): QuantizedLayers {
  return new Map(quantizableLayers(tensors).map((path) => [path, { range: null, smoothing: null, norm: null }]))
}

const digests = new WeakMap<Quantization, string>()

/** A digest of all that the rounded weights depend on, beside the weights themselves. */
export function quantizationDigest(quantization: Quantization): string {
  const known = digests.get(quantization)
  if (known !== undefined) return known
  const { layers, weightLayout, weightLimit } = quantization
  const hash = createHash('sha256').update(`${weightLayout} ${weightLimit}`)
  for (const path of [...layers.keys()].sort()) {
    const { norm, smoothing } = layers.get(path)!
    hash.update(`\n${path} ${smoothing ?? ''}${norm === null ? '' : ' norm'}`)
  }
  const digest = hash.digest('hex')
  digests.set(quantization, digest)
  return digest
}

/** Into how many parts a linear's outputs are stored, each of them a matrix of its own: a gated projection into two. */
export function outputParts(path: string): 1 | 2 {
  return path.endsWith('.ff.net.0.proj') ? 2 : 1
}

/** Path of the LayerNorm that a transformer's linear reads; null for layers that read something else. */
export function normBefore(path: string): string | null {
  const [, block, layer] = /^(.*\.transformer_blocks\.\d+)\.(.*)$/.exec(path) ?? []
  if (layer === undefined) return null
  if (/^attn1\.to_[qkv]$/.test(layer)) return `${block}.norm1`
  if (layer === 'attn2.to_q') return `${block}.norm2`
  return layer === 'ff.net.0.proj' ? `${block}.norm3` : null
}
