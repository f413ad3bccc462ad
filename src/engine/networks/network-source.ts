import { AppError } from '../../errors.ts'
import type { Arithmetic, Backend, FloatFormat, Session, SessionOptions } from '../backend.ts'
import { releasingPages } from '../backends/mapped-pages.ts'
import { bindWeights } from '../onnx/bind-weights.ts'
import type { Graph } from '../onnx/graph-builder.ts'
import type { Quantization } from '../quantize/quantization.ts'
import type { GraphWeights } from '../weights/checkpoint.ts'

/** A component ready to be compiled: its weights are stored in the graph's number format. */
export type NetworkSource<Config> = {
  readonly backend: Backend
  readonly config: Config
  readonly weights: GraphWeights
  /** What the graph is emitted in. */
  readonly precision: FloatFormat
  readonly arithmetic: Arithmetic
  /** What the weights are rounded for; absent: they are as the checkpoint has them. */
  readonly quantization?: Quantization | undefined
  /** Whether what is compiled may be kept on disk, where that saves time. */
  readonly keepCompiled?: boolean
}

/**
 * Bytes of weights above which a UNet's stay mapped from their files. Repacked weights run faster (at 512² by a sixth)
 * but cost as much private memory as the file is large, and seconds to load.
 */
const repackUpToBytes = 1 << 30

/**
 * Compile a graph over the source's weights, or several as one session. OpenVINO packs weights: what it has read of their
 * files is given back meanwhile.
 */
export async function createSession(
  source: NetworkSource<unknown>,
  graphs: readonly [Graph, ...Graph[]],
  options: Omit<SessionOptions, 'arithmetic' | 'keptBytes'>,
): Promise<Session> {
  const { arithmetic, backend, keepCompiled, precision, quantization, weights } = source
  // OpenVINO looks for what it can compute in 8-bit integers much longer than it packs weights, and rewrites a graph of
  // bf16 about as long.
  const isWorthKeeping = quantization !== undefined || precision === 'bf16'
  const keptBytes = keepCompiled && isWorthKeeping ? weightBytes(weights) : undefined
  const create = (): Promise<Session> => {
    const [model, ...others] = graphs.map((graph) => bindWeights(graph, weights))
    if (others.length === 0) return backend.create(model, { ...options, arithmetic, keptBytes })
    if (!backend.createChain) throw new AppError('internal', `${backend.name}: takes one graph a session`)
    return backend.createChain([model, ...others], { ...options, arithmetic, keptBytes })
  }
  return backend.name === 'openvino' ? await releasingPages(filesOf(weights), create) : await create()
}

/** Whether weights are so large that repacking them costs more than it gains. */
export function areLarge(weights: GraphWeights): boolean {
  return weightBytes(weights) > repackUpToBytes
}

/**
 * Bytes of private memory that a component's weights may take: none where they stay mapped, all where they are rounded,
 * since their kernels are only quick with weights that they have packed themselves. OpenVINO packs all weights, in the
 * format that it computes in.
 */
export function privateWeightBytes(
  weights: GraphWeights,
  {
    arithmetic,
    backend,
    precision,
    quantization,
  }: Pick<NetworkSource<unknown>, 'arithmetic' | 'backend' | 'precision' | 'quantization'>,
): number {
  const isHalved = arithmetic !== 'graph' && precision === 'fp32' && !quantization
  if (backend.name === 'openvino') return weightBytes(weights) * (isHalved ? 0.5 : 1)
  return areLarge(weights) && !quantization ? 0 : weightBytes(weights)
}

function weightBytes(weights: GraphWeights): number {
  let total = 0
  for (const { source } of weights.values()) total += 'bytes' in source ? source.bytes.length : source.length
  return total
}

function filesOf(weights: GraphWeights): Set<string> {
  const files = new Set<string>()
  for (const { source } of weights.values()) if ('file' in source) files.add(source.file)
  return files
}
