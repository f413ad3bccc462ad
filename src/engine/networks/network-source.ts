import type { Backend, Precision, Session } from '../backend.ts'
import { bindWeights } from '../onnx/bind-weights.ts'
import type { Graph } from '../onnx/graph-builder.ts'
import type { Weights } from '../weights/checkpoint.ts'

/** A component ready to be compiled: its weights are stored in the precision's number format. */
export type NetworkSource<Config> = {
  readonly backend: Backend
  readonly config: Config
  readonly weights: Weights
  readonly precision: Precision
}

/**
 * Bytes of weights above which they stay mapped from their files. Repacked weights run faster (at 512² by a sixth) but
 * cost as much private memory as the file is large, and seconds to load.
 */
const inPlaceAboveBytes = 1 << 30

/** Compile a graph over the source's weights. `keepActivations`: see SessionOptions. */
export async function createSession(
  source: NetworkSource<unknown>,
  graph: Graph,
  keepActivations: boolean,
): Promise<Session> {
  return await source.backend.create(bindWeights(graph, source.weights), {
    weightsInPlace: weightBytes(source.weights) > inPlaceAboveBytes,
    keepActivations,
  })
}

/** Bytes that a component's weights take in their files. */
function weightBytes(weights: Weights): number {
  let total = 0
  for (const { source } of weights.values()) total += 'bytes' in source ? source.bytes.length : source.length
  return total
}

/** Bytes of private memory that loading a component's weights takes: none where they stay mapped. */
export function privateWeightBytes(weights: Weights): number {
  const bytes = weightBytes(weights)
  return bytes > inPlaceAboveBytes ? 0 : bytes
}
