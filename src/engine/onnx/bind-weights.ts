import path from 'node:path'
import { elementCount } from '#tensor/tensor.ts'
import { AppError } from '../../errors.ts'
import type { GraphWeights } from '../weights/checkpoint.ts'
import type { Graph, WeightUse } from './graph-builder.ts'
import { encodeModel, type TensorProto } from './proto.ts'

/** How a number format is called in safetensors and in ONNX, and its bytes an element. */
const formats = {
  fp32: { stored: 'F32', type: 'float', elementBytes: 4 },
  fp16: { stored: 'F16', type: 'float16', elementBytes: 2 },
  bf16: { stored: 'BF16', type: 'bfloat16', elementBytes: 2 },
  int8: { stored: 'I8', type: 'int8', elementBytes: 1 },
} as const

/**
 * The graph as ONNX bytes whose initialisers point into the files where the weights lie. Locations are relative to
 * {@link externalDataRoot}. Throws `missing_tensors` with the list, or `wrong_architecture` for a wrong shape.
 */
export function bindWeights(graph: Graph, weights: GraphWeights): Uint8Array {
  const missing = [...new Set(graph.weights.values().map((use) => use.key))].filter((key) => !weights.has(key))
  if (missing.length > 0)
    throw new AppError(
      'missing_tensors',
      `${graph.name}: ${missing.length} tensors are missing: ${missing.slice(0, 10).join(', ')}${missing.length > 10 ? ', …' : ''}`,
    )
  return encodeModel({
    name: graph.name,
    nodes: graph.nodes,
    initializers: [
      ...graph.constants,
      ...graph.weights.entries().map(([name, use]) => initializer(graph, name, use, weights)),
    ],
    inputs: graph.inputs,
    outputs: graph.outputs,
  })
}

/** The folder that external data locations start from: the root of the file system (or drive) that holds `file`. */
export function externalDataRoot(file: string): string {
  return path.parse(path.resolve(file)).root
}

function initializer(graph: Graph, name: string, use: WeightUse, weights: GraphWeights): TensorProto {
  const stored = weights.get(use.key)!
  const wanted = formats[use.format === 'int8' ? 'int8' : graph.precision]
  if (stored.dtype !== wanted.stored)
    throw new AppError(
      'internal',
      `${use.key} is stored as ${stored.dtype}; a ${graph.precision} graph wants ${wanted.stored}`,
    )
  if (stored.shape.join() !== use.shape.join())
    throw new AppError(
      'wrong_architecture',
      `${use.key} has the shape [${stored.shape.join(', ')}], the configuration asks for [${use.shape.join(', ')}]`,
    )
  const { type, elementBytes } = wanted
  const start = use.firstRow * elementCount(use.shape.slice(1)) * elementBytes
  const length = elementCount(use.readAs) * elementBytes
  if ('bytes' in stored.source)
    return { name, type, shape: use.readAs, data: stored.source.bytes.subarray(start, start + length) }
  const { file, offset } = stored.source
  const location = path.relative(externalDataRoot(file), path.resolve(file)).split(path.sep).join('/')
  return { name, type, shape: use.readAs, data: { location, offset: offset + start, length } }
}
