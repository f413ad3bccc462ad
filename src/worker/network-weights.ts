// The weights that a network is compiled from: in the graph's number format or rounded to bytes, with what LoRAs change.
import type { FloatFormat } from '#engine/backend.ts'
import type { Quantization } from '#engine/quantize/quantization.ts'
import { quantizeWeights } from '#engine/quantize/quantized-weights.ts'
import type { PreparedWeights } from '#engine/weights/cached-weights.ts'
import type { Component, GraphWeights, WeightDType, Weights } from '#engine/weights/checkpoint.ts'
import { mergeWeights } from '#engine/weights/lora/merged-weights.ts'
import type { NetworkLoras, WeightMerge } from '#engine/weights/lora/network-loras.ts'
import { prepareWeights, type PrepareOptions } from '#engine/weights/prepared-cache.ts'

/** What the weights are needed for. */
export type WeightsOrder = {
  readonly component: Component<object>
  /** The component's content hash. */
  readonly hash: string
  readonly precision: FloatFormat
  readonly quantization: Quantization | undefined
  readonly loras: NetworkLoras | null
}

const dtypes = { fp32: 'F32', fp16: 'F16', bf16: 'BF16' } as const satisfies Record<FloatFormat, WeightDType>

/** The weights for a graph, made where they are not in the cache. Throws as prepareWeights, mergeWeights, quantizeWeights. */
export async function networkWeights(
  { component, hash, precision, quantization, loras }: WeightsOrder,
  cache: Omit<PrepareOptions, 'dtype'>,
): Promise<PreparedWeights<GraphWeights>> {
  const options = { ...cache, dtype: dtypes[precision] }
  const merge = loras?.merge ?? null
  if (!quantization) {
    const prepared = await prepareWeights(component, hash, options)
    return merge ? await mergeWeights(component, hash, prepared, merge, options) : prepared
  }
  if (!merge) return await quantizeWeights(component, hash, { ...cache, quantization })
  // Rounded from what the checkpoint has, so that there is no second copy of it in fp32.
  const stored: PreparedWeights = { weights: component.weights, [Symbol.dispose]() {} }
  using merged = await mergeWeights(component, hash, stored, merge, options)
  const changed = { weights: changedOf(merged.weights, merge), hash: merge.hash }
  return await quantizeWeights(component, hash, { ...cache, quantization }, changed)
}

function changedOf(weights: Weights, { changes }: WeightMerge): Weights {
  return new Map([...weights].filter(([key]) => changes.has(key)))
}
