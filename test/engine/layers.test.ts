// Each layer against torch and diffusers (tools/reference/layers.py), in fp32, fp16 and bf16.
import { beforeAll, describe, expect, test } from 'vitest'
import { GraphBuilder, type Value } from '#engine/onnx/graph-builder.ts'
import {
  attention,
  conv2d,
  gelu,
  groupNorm,
  layerNorm,
  linear,
  quickGelu,
  silu,
  upsample,
} from '#engine/onnx/layers.ts'
import { resnetBlock } from '#engine/models/unet-resnet.ts'
import { transformer } from '#engine/models/unet-transformer.ts'
import { vaeSelfAttention } from '#engine/models/vae.ts'
import type { UNetScope } from '#engine/models/unet-scope.ts'
import type { StoredTensor } from '#engine/weights/checkpoint.ts'
import { backendNames, type BackendName, type FloatFormat } from '#engine/backend.ts'
import type { Tensor } from '#tensor/tensor.ts'
import { readGolden, relativeError, runGraph, weightsInMemory } from '../support/golden.ts'
import { hasBf16 } from '../support/openvino.ts'

let golden: Map<string, Tensor>
beforeAll(async () => {
  golden = await readGolden('layers/layers.safetensors')
})

type Emit = (g: GraphBuilder, inputs: Record<string, Value>) => Value

const scope = (
  g: GraphBuilder,
  inputs: Record<string, Value>,
  norm: 'default' | 'scale_shift',
  linearProjection: boolean,
  kind: 'fused' | 'plain',
): UNetScope => ({
  g,
  config: { normNumGroups: 4, normEps: 1e-5, resnetTimeScaleShift: norm, useLinearProjection: linearProjection },
  options: { attention: kind },
  temb: inputs['temb'] ? silu(g, inputs['temb']) : inputs['x'],
  context: inputs['context'] ? g.reshape(inputs['context'], [18, 20]) : inputs['x'],
})

const cases: Record<string, Emit> = {
  linear: (g, { x }) => linear(g, x, 'm', 40),
  conv3x3: (g, { x }) => conv2d(g, x, 'm', 10),
  'conv3x3-stride2': (g, { x }) => conv2d(g, x, 'm', 6, { stride: 2 }),
  conv1x1: (g, { x }) => conv2d(g, x, 'm', 10, { kernel: 1 }),
  'conv3x3-stride2-pad-end': (g, { x }) => conv2d(g, x, 'm', 6, { stride: 2, padding: 0, padEnd: 1 }),
  'group-norm': (g, { x }) => groupNorm(g, x, 'm', 4, 1e-5),
  'layer-norm': (g, { x }) => layerNorm(g, x, 'm', 1e-5),
  silu: (g, { x }) => silu(g, x),
  gelu: (g, { x }) => gelu(g, x),
  'quick-gelu': (g, { x }) => quickGelu(g, x),
  upsample: (g, { x }) => upsample(g, x, 8, 10),
  'upsample-odd': (g, { x }) => upsample(g, x, 7, 9),
  'resnet-default': (g, inputs) => resnetBlock(scope(g, inputs, 'default', true, 'fused'), inputs['x'], 'm', 16),
  'resnet-scale-shift': (g, inputs) => resnetBlock(scope(g, inputs, 'scale_shift', true, 'fused'), inputs['x'], 'm', 8),
  transformer: (g, inputs) => transformer(scope(g, inputs, 'default', true, 'fused'), inputs['x'], 'm', 2, 3),
  'transformer-conv-projection': (g, inputs) =>
    transformer(scope(g, inputs, 'default', false, 'plain'), inputs['x'], 'm', 2, 3),
  'vae-attention': (g, { x }) => vaeSelfAttention({ g, attention: 'fused', normNumGroups: 4 }, x, 'm'),
}

const storedAs = { fp32: 'F32', fp16: 'F16', bf16: 'BF16' } as const

async function run(name: string, precision: FloatFormat, backend: BackendName = 'onnxruntime'): Promise<number> {
  const g = new GraphBuilder(name, precision)
  const inputs: Record<string, Value> = {}
  const feeds: Record<string, Tensor> = {}
  const weights = new Map<string, StoredTensor>()
  for (const [key, value] of golden) {
    const parts = key.split('/')
    if (parts[0] !== name || parts[1] === 'y') continue
    if (parts[1] === 'w') {
      const bytes = new Uint8Array(value.data.buffer, value.data.byteOffset, value.data.byteLength)
      weights.set(`m.${parts[2]}`, { dtype: 'F32', shape: value.shape, source: { bytes } })
    } else {
      inputs[parts[1]] = g.input(parts[1], value.shape)
      feeds[parts[1]] = value
    }
  }
  g.output('y', cases[name](g, inputs))
  const stored = await weightsInMemory(weights, storedAs[precision])
  const arithmetic = precision === 'bf16' ? 'bf16' : 'graph'
  const { y } = await runGraph(g.finish(), stored, feeds, backend, arithmetic)
  return relativeError(y, golden.get(`${name}/y`)!)
}

describe('layers equal the reference', () => {
  test.each(Object.keys(cases))('%s in fp32', async (name) => {
    expect(await run(name, 'fp32')).toBeLessThan(1e-6)
  })
  test.each(Object.keys(cases))('%s in fp32 on OpenVINO', async (name) => {
    expect(await run(name, 'fp32', 'openvino')).toBeLessThan(1e-6)
  })
  test.each(Object.keys(cases))('%s in fp16', async (name) => {
    expect(await run(name, 'fp16')).toBeLessThan(3e-3)
  })
  test.each(Object.keys(cases))('%s in bf16 on OpenVINO', async (name) => {
    if (!hasBf16()) return console.warn('not run here: this CPU has no bf16')
    expect(await run(name, 'bf16', 'openvino')).toBeLessThan(2e-2)
  })
  test('every case of the fixture is tested', () => {
    expect(new Set([...golden.keys()].map((key) => key.split('/')[0]))).toEqual(new Set(Object.keys(cases)))
  })
})

test('the two forms of attention agree, with one and with several heads', async () => {
  const shape = [2 * 9, 24]
  const random = (seed: number): Tensor => ({
    shape,
    data: Float32Array.from({ length: 18 * 24 }, (_, i) => Math.sin(i * seed)),
  })
  const feeds = { q: random(0.7), k: random(1.3), v: random(2.1) }
  const results: Tensor[] = []
  for (const kind of ['fused', 'plain'] as const) {
    for (const heads of [1, 3]) {
      const g = new GraphBuilder('attention', 'fp32')
      const [q, k, v] = ['q', 'k', 'v'].map((name) => g.input(name, shape))
      g.output('y', attention(g, [q, k, v], { batch: 2, heads, kind, name: 'attention' }))
      results.push((await runGraph(g.finish(), new Map(), feeds))['y'])
    }
  }
  expect(relativeError(results[0], results[2])).toBeLessThan(1e-6)
  expect(relativeError(results[1], results[3])).toBeLessThan(1e-6)
  expect(relativeError(results[0], results[1])).toBeGreaterThan(1e-3)
})

test('a change of each element is made before the moves behind it, and is the same', async () => {
  const shape = [2, 3, 4]
  const x: Tensor = { shape, data: Float32Array.from({ length: 24 }, (_, i) => Math.sin(i)) }
  const g = new GraphBuilder('moves', 'fp32')
  const moved = g.reshape(g.transpose(g.reshape(g.input('x', shape), [6, 4]), [1, 0]), [2, 12])
  g.output('behind', silu(g, moved))
  g.output(
    'before',
    g.beforeMoves(moved, (value) => silu(g, value)),
  )
  const graph = g.finish()
  expect(graph.nodes.filter(({ opType }) => opType === 'QuickGelu').map(({ inputs }) => inputs[0])).toEqual([
    moved.name,
    'x',
  ])
  const { behind, before } = await runGraph(graph, new Map(), { x })
  expect(before).toEqual(behind)
})

test.each(backendNames)('%s: a linear with a LoRA branch equals the linear with the merged weight', async (backend) => {
  const weight = golden.get('linear/w/weight')! // (40, 24)
  const x = golden.get('linear/x')!
  const rank = 3
  const a: Tensor = { shape: [24, rank], data: Float32Array.from({ length: 24 * rank }, (_, i) => Math.sin(i)) }
  const b: Tensor = { shape: [rank, 40], data: Float32Array.from({ length: 40 * rank }, (_, i) => Math.cos(i) * 0.3) }
  const merged = weight.data.slice()
  for (let o = 0; o < 40; o++)
    for (let i = 0; i < 24; i++)
      for (let r = 0; r < rank; r++) merged[o * 24 + i] += a.data[i * rank + r] * b.data[r * 40 + o]
  const store = (data: Float32Array): StoredTensor => ({
    dtype: 'F32',
    shape: [40, 24],
    source: { bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) },
  })
  const build = (targets: string[]): GraphBuilder => {
    const g = new GraphBuilder('lora', 'fp32', new Set(targets))
    g.output('y', linear(g, g.input('x', x.shape), 'm', 40, { bias: false }))
    return g
  }
  const branch = await runGraph(
    build(['m']).finish(),
    new Map([['m.weight', store(weight.data)]]),
    {
      x,
      'm.lora_A': a,
      'm.lora_B': b,
    },
    backend,
  )
  const whole = await runGraph(build([]).finish(), new Map([['m.weight', store(merged)]]), { x }, backend)
  expect(relativeError(branch['y'], whole['y'])).toBeLessThan(1e-6)
  const none = {
    'm.lora_A': { shape: [24, 0], data: new Float32Array() },
    'm.lora_B': { shape: [0, 40], data: new Float32Array() },
  }
  const bare = await runGraph(
    build(['m']).finish(),
    new Map([['m.weight', store(weight.data)]]),
    { x, ...none },
    backend,
  )
  const plain = await runGraph(build([]).finish(), new Map([['m.weight', store(weight.data)]]), { x }, backend)
  expect(bare['y'].data).toEqual(plain['y'].data)
})
