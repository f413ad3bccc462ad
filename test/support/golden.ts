// Reading fixtures and comparing with them.
import { join } from 'node:path'
import { expect } from 'vitest'
import { f32ToBf16 } from '#tensor/dtype.ts'
import { openSafetensors, readTensorBytes, readTensorF32 } from '#tensor/safetensors.ts'
import type { Tensor } from '#tensor/tensor.ts'
import type { Arithmetic, BackendName, Feed } from '#engine/backend.ts'
import type { GraphWeights, StoredTensor, WeightDType, Weights } from '#engine/weights/checkpoint.ts'
import type { Graph } from '#engine/onnx/graph-builder.ts'
import { bindWeights } from '#engine/onnx/bind-weights.ts'

import { testBackend } from './openvino.ts'

export const goldenFolder = join(import.meta.dirname, '../golden')

/** The floating-point tensors of a fixture file below test/golden. */
export async function readGolden(file: string): Promise<Map<string, Tensor>> {
  const opened = await openSafetensors(join(goldenFolder, file))
  const tensors = new Map<string, Tensor>()
  for (const [name, entry] of opened.tensors) {
    if (entry.dtype !== 'F32') continue
    const source = { file: opened.path, offset: entry.offset, length: entry.length }
    tensors.set(name, await readTensorF32({ dtype: 'F32', shape: entry.shape, source }))
  }
  return tensors
}

/** An int64 tensor of a fixture file as numbers. */
export async function readGoldenIntegers(file: string, name: string): Promise<number[]> {
  const opened = await openSafetensors(join(goldenFolder, file))
  const { offset, length } = opened.tensors.get(name)!
  const bytes = await readTensorBytes({ source: { file: opened.path, offset, length } })
  return Array.from(new BigInt64Array(bytes.slice().buffer), Number)
}

/** The uint8 tensors of a fixture file below test/golden. */
export async function readGoldenBytes(
  file: string,
): Promise<Map<string, { shape: readonly number[]; data: Uint8Array }>> {
  const opened = await openSafetensors(join(goldenFolder, file))
  const tensors = new Map<string, { shape: readonly number[]; data: Uint8Array }>()
  for (const [name, { dtype, shape, offset, length }] of opened.tensors) {
    if (dtype !== 'U8') continue
    tensors.set(name, { shape, data: await readTensorBytes({ source: { file: opened.path, offset, length } }) })
  }
  return tensors
}

/** Every weight as bytes of a number format in memory, for graphs that are compared with the reference. */
export async function weightsInMemory(weights: Weights, dtype: WeightDType = 'F32'): Promise<Weights> {
  const loaded = new Map<string, StoredTensor>()
  for (const [key, stored] of weights) {
    const { data } = await readTensorF32(stored)
    const array = roundedTo(dtype, data)
    loaded.set(key, {
      dtype,
      shape: stored.shape,
      source: { bytes: new Uint8Array(array.buffer, array.byteOffset, array.byteLength) },
    })
  }
  return loaded
}

function roundedTo(dtype: WeightDType, data: Float32Array): Float32Array | Float16Array | Uint16Array {
  if (dtype === 'F32') return data
  if (dtype === 'F16') return new Float16Array(data)
  const words = new Uint16Array(data.length)
  f32ToBf16(data, words)
  return words
}

/** One run of a graph on the CPU. */
export async function runGraph(
  graph: Graph,
  weights: GraphWeights,
  feeds: Record<string, Feed>,
  backend: BackendName = 'onnxruntime',
  arithmetic: Arithmetic = 'graph',
): Promise<Record<string, Tensor>> {
  await using session = await testBackend(backend).create(bindWeights(graph, weights), {
    weightsInPlace: false,
    keepActivations: false,
    arithmetic,
  })
  return await session.run(feeds)
}

/** One run of several graphs as one session, on the backend that takes them. */
export async function runChain(
  graphs: readonly Graph[],
  weights: GraphWeights,
  feeds: Record<string, Feed>,
  arithmetic: Arithmetic = 'graph',
): Promise<Record<string, Tensor>> {
  const models = graphs.map((graph) => bindWeights(graph, weights))
  await using session = await testBackend('openvino').createChain!(models, {
    weightsInPlace: false,
    keepActivations: false,
    arithmetic,
  })
  return await session.run(feeds)
}

/** ‖actual − expected‖ / ‖expected‖ over all elements. */
export function relativeError(actual: Tensor, expected: Tensor): number {
  expect(actual.shape).toEqual(expected.shape)
  let difference = 0
  let norm = 0
  for (let i = 0; i < expected.data.length; i++) {
    difference += (actual.data[i] - expected.data[i]) ** 2
    norm += expected.data[i] ** 2
  }
  return Math.sqrt(difference / norm)
}
