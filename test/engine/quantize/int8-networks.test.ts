// UNets whose weights and inputs are rounded to 8-bit integers, against the same networks in fp32.
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import type { BackendName } from '#engine/backend.ts'
import { timeProjection } from '#engine/models/time-embedding.ts'
import { unetGraph, unetHalves, type UNetGraphOptions } from '#engine/models/unet.ts'
import type { UNetConfig } from '#engine/models/unet-config.ts'
import { calibratedLayers } from '#engine/quantize/calibration-file.ts'
import { chooseLayers, type CalibratedLayer } from '#engine/quantize/choose-layers.ts'
import { StatisticsCollector } from '#engine/quantize/input-statistics.ts'
import { observeInputs, type ObservedInput } from '#engine/quantize/observe-inputs.ts'
import type { GraphBuilder } from '#engine/onnx/graph-builder.ts'
import { dynamicLayers, quantizableLayers, type Quantization } from '#engine/quantize/quantization.ts'
import { smoothingOf } from '#engine/quantize/smoothing.ts'
import type { Checkpoint, GraphWeights, StoredTensor } from '#engine/weights/checkpoint.ts'
import { openCheckpoint } from '#engine/weights/open-checkpoint.ts'
import { TorchGenerator } from '#tensor/random.ts'
import { readRange, readTensorF32 } from '#tensor/safetensors.ts'
import type { Tensor } from '#tensor/tensor.ts'
import { relativeError, runChain, runGraph, weightsInMemory } from '../../support/golden.ts'
import { quantizedUNet } from '../../support/quantized-unet.ts'

const root = path.join(import.meta.dirname, '../../..')
const models = {
  'tiny-b': path.join(root, 'test/golden/models/tiny-b'),
  pocket: path.join(root, 'test/golden/models/pocket'),
}
/** A network that is nearer to fp32 has not been rounded. */
const leastError = 1e-3

const sizes = { height: 18, width: 16, batch: 1, textLength: 77 }
type Sizes = typeof sizes

function inputsOf(config: UNetConfig, { batch, height, width, textLength }: Sizes, seed = 3): Record<string, Tensor> {
  const generator = new TorchGenerator(seed)
  return {
    sample: generator.randn([batch, config.inChannels, height, width]),
    encoder_hidden_states: generator.randn([batch, textLength, config.crossAttentionDim]),
    time_proj: timeProjection(config, 601, batch),
    add_embeds: generator.randn([batch, config.addEmbeddingInputDim]),
  }
}

const optionsOf = (options: Sizes): UNetGraphOptions => ({
  ...options,
  precision: 'fp32',
  attention: 'fused',
  loraTargets: new Set<string>(),
  controlResiduals: false,
})

/** For onnxruntime every layer by rows; for OpenVINO by the ranges of one evaluation of another sample. */
async function quantizationOf(
  { unet: { config, weights } }: Checkpoint,
  backend: BackendName,
  weightLimit: 127 | 64 = 127,
): Promise<Quantization> {
  if (backend === 'onnxruntime') return { layers: dynamicLayers(weights), weightLayout: 'columns', weightLimit }
  const paths = new Set(quantizableLayers(weights))
  let observed: ObservedInput[] = []
  const options = { ...optionsOf(sizes), observe: (g: GraphBuilder) => void (observed = observeInputs(g, paths)) }
  const outputs = await runGraph(unetGraph(config, options), await weightsInMemory(weights), inputsOf(config, sizes, 8))
  const collector = new StatisticsCollector(observed)
  collector.add(outputs)
  const layers: CalibratedLayer[] = []
  for (const statistics of collector.drain()) layers.push(...(await chooseLayers(statistics, weights, weightLimit)))
  expect(layers.map((layer) => layer.path).toSorted()).toEqual([...paths].toSorted())
  return { layers: calibratedLayers({ layers }), weightLayout: 'rows', weightLimit }
}

/**
 * Backend, model, and the relative error that its int8 UNet may have at most. tiny-b's weights are random: each of its layers
 * adds its half per cent, where a trained model's errors fade on the way.
 */
const cases = [
  ['onnxruntime', 'tiny-b', models['tiny-b'], 4.5e-2],
  ['onnxruntime', 'pocket', models.pocket, 3e-3],
  ['openvino', 'pocket', models.pocket, 1e-2],
] as const

describe.each(cases)('on %s: %s', (backend, _, folder, tolerance) => {
  test.each([
    ['one picture', sizes, {}],
    [
      'two pictures and two chunks of text, as the run tells',
      { ...sizes, batch: 2, textLength: 154 },
      { textLength: null },
    ],
  ])('%s', async (_name, size, changes) => {
    const checkpoint = await openCheckpoint(folder)
    const { config } = checkpoint.unet
    const quantization = await quantizationOf(checkpoint, backend)
    const rounded = await quantizedUNet(checkpoint, quantization)
    const feeds = inputsOf(config, size)
    const options = optionsOf(size)
    const exact = await runGraph(unetGraph(config, options), await weightsInMemory(checkpoint.unet.weights), feeds)
    const int8 = await runGraph(unetGraph(config, { ...options, ...changes, quantization }), rounded, feeds, backend)
    const error = relativeError(int8['noise_pred'], exact['noise_pred'])
    expect(error).toBeLessThan(tolerance)
    expect(error).toBeGreaterThan(leastError)
  })

  test('with branches of LoRAs and the residuals of a ControlNet', async () => {
    const checkpoint = await openCheckpoint(folder)
    const { config, weights } = checkpoint.unet
    const quantization = await quantizationOf(checkpoint, backend)
    const rounded = await quantizedUNet(checkpoint, quantization)
    // OpenVINO has no kernel for a convolution by an input: there such LoRAs are added to the weights.
    const isTarget = (layer: string): boolean =>
      backend === 'onnxruntime' || weights.get(`${layer}.weight`)!.shape.length === 2
    const loraTargets = new Set(quantizableLayers(weights).filter(isTarget))
    const options = { ...optionsOf(sizes), loraTargets, controlResiduals: true }
    const graph = unetGraph(config, { ...options, quantization })
    expect(loraTargets.size).toBeGreaterThan(20)
    const generator = new TorchGenerator(5)
    const feeds: Record<string, Tensor> = inputsOf(config, sizes)
    const rank = 5
    for (const { name, shape } of graph.inputs) {
      if (name in feeds) continue
      const filled = shape.map((size) => (typeof size === 'string' ? rank : size))
      const value = generator.randn(filled)
      const size = name.includes('.lora_') ? 0.1 : 0.3
      feeds[name] = { shape: filled, data: value.data.map((x) => x * size) }
    }
    const exact = await runGraph(unetGraph(config, options), await weightsInMemory(weights), feeds)
    const bare = await runGraph(
      unetGraph(config, optionsOf(sizes)),
      await weightsInMemory(weights),
      inputsOf(config, sizes),
    )
    const results = [await runGraph(graph, rounded, feeds, backend)]
    if (backend === 'openvino')
      results.push(await runChain(unetHalves(config, { ...options, quantization }), rounded, feeds))
    expect(relativeError(exact['noise_pred'], bare['noise_pred'])).toBeGreaterThan(0.1)
    for (const { noise_pred } of results) {
      const error = relativeError(noise_pred, exact['noise_pred'])
      expect(error).toBeLessThan(tolerance)
      expect(error).toBeGreaterThan(leastError)
    }
  })
})

test('weights of at most 64, for processors that add pairs of products in 16 bits', async () => {
  const checkpoint = await openCheckpoint(models.pocket)
  const { config, weights } = checkpoint.unet
  const feeds = inputsOf(config, sizes)
  const options = optionsOf(sizes)
  const exact = await runGraph(unetGraph(config, options), await weightsInMemory(weights), feeds)
  const errors: number[] = []
  for (const weightLimit of [127, 64] as const) {
    const quantization = await quantizationOf(checkpoint, 'onnxruntime', weightLimit)
    const rounded = await quantizedUNet(checkpoint, quantization)
    const int8 = await runGraph(unetGraph(config, { ...options, quantization }), rounded, feeds)
    errors.push(relativeError(int8['noise_pred'], exact['noise_pred']))
  }
  expect(errors[1]).toBeGreaterThan(errors[0])
  expect(errors[1]).toBeLessThan(4e-3)
})

describe('smoothing', async () => {
  const checkpoint = await openCheckpoint(models.pocket)
  const { config, weights } = checkpoint.unet
  const plain = await quantizationOf(checkpoint, 'openvino')
  /** Every layer's input divided by factors, its range by `narrower`. */
  const smoothedBy = (factorOf: (channel: number) => number, narrower: number): Quantization => ({
    ...plain,
    layers: new Map(
      [...plain.layers.keys()].map((layer) => {
        const { scale, zeroPoint } = plain.layers.get(layer)!.range!
        const inputs = weights.get(`${layer}.weight`)!.shape[1]
        const factors = Float32Array.from({ length: inputs }, (_, channel) => factorOf(channel))
        return [layer, { range: { scale: scale / narrower, zeroPoint }, smoothing: smoothingOf(factors), norm: null }]
      }),
    ),
  })
  const feeds = inputsOf(config, sizes)
  const run = async (quantization: Quantization): Promise<Tensor> => {
    const rounded = await quantizedUNet(checkpoint, quantization)
    const graph = unetGraph(config, { ...optionsOf(sizes), quantization })
    return (await runGraph(graph, rounded, feeds, 'openvino'))['noise_pred']
  }

  test('by a power of two changes nothing', async () => {
    expect(relativeError(await run(smoothedBy(() => 2, 2)), await run(smoothedBy(() => 1, 1)))).toBeLessThan(1e-5)
  })

  test('by factors of each channel keeps what it computes', async () => {
    const uneven = await run(smoothedBy((channel) => 2 ** (((channel % 5) - 2) / 8), 2 ** (-2 / 8)))
    const exact = await runGraph(unetGraph(config, optionsOf(sizes)), await weightsInMemory(weights), feeds)
    expect(relativeError(uneven, exact['noise_pred'])).toBeLessThan(1.5e-2)
  })

  test('is part of the norms and of the values of an attention, but where a LoRA reads the input as it is', () => {
    const quantization = smoothedBy(() => 2, 2)
    /** Operators that give what is rounded, and how often. */
    const roundedOf = (loraTargets: ReadonlySet<string>): Map<string, number> => {
      const { nodes } = unetGraph(config, { ...optionsOf(sizes), quantization, loraTargets })
      const makers = new Map(nodes.flatMap((node) => node.outputs.map((name) => [name, node] as const)))
      const found = new Map<string, number>()
      for (const node of nodes) {
        if (node.opType !== 'QuantizeLinear') continue
        const name = makers.get(node.inputs[0])?.opType ?? 'input'
        found.set(name, (found.get(name) ?? 0) + 1)
      }
      return found
    }
    const blocks = [...plain.layers.keys()].filter((layer) => layer.endsWith('.attn1.to_q')).length
    const [bare, targeted] = [roundedOf(new Set()), roundedOf(new Set(plain.layers.keys()))]
    expect(bare.get('LayerNormalization')).toBe(3 * blocks)
    expect(bare.get('MatMul')).toBe(2 * blocks)
    expect(targeted.get('LayerNormalization')).toBeUndefined()
    expect(targeted.get('MatMul')).toBeUndefined()
    expect(targeted.get('Mul')).toBeGreaterThan(bare.get('Mul')! + 4 * blocks)
    // Next to what computes it, not behind a transposition.
    for (const mover of ['Reshape', 'Transpose']) {
      expect(bare.get(mover)).toBeUndefined()
      expect(targeted.get(mover)).toBeUndefined()
    }
  })
})

describe("a norm's scale and bias in the layers behind it", async () => {
  const checkpoint = await openCheckpoint(models.pocket)
  const { config, weights } = checkpoint.unet
  const quantization = await quantizationOf(checkpoint, 'openvino')
  const folded = [...quantization.layers].filter(([, { norm }]) => norm !== null)

  test('leave the norm, which OpenVINO then rounds as it computes it', () => {
    const { nodes } = unetGraph(config, { ...optionsOf(sizes), quantization })
    const norms = nodes.filter(({ opType }) => opType === 'LayerNormalization')
    const bare = norms.filter(({ inputs }) => inputs.length === 2)
    expect(folded.length).toBeGreaterThan(norms.length)
    expect(bare).toHaveLength(new Set(folded.map(([, { norm }]) => norm)).size)
  })

  test('are those of a LoRA that changes them', async () => {
    const only = new Map<string, StoredTensor>()
    for (const norm of new Set(folded.map((layer) => layer[1].norm!)))
      for (const key of [`${norm}.weight`, `${norm}.bias`]) {
        const stored = weights.get(key)!
        const { data } = await readTensorF32(stored)
        const other = data.map((value, channel) => value * (1 + (channel % 3)) + 0.2)
        only.set(key, { dtype: 'F32', shape: stored.shape, source: { bytes: new Uint8Array(other.buffer) } })
      }
    const rounded = await quantizedUNet(checkpoint, quantization, { weights: only, hash: 'b'.repeat(64) })
    const valuesOf = async (from: GraphWeights, key: string): Promise<Float32Array> =>
      (await readTensorF32(from.get(key) as StoredTensor)).data
    const [layer, { norm }] = folded.find(([path]) => path.endsWith('.attn2.to_q'))!
    const [scale, shift] = [await valuesOf(only, `${norm}.weight`), await valuesOf(only, `${norm}.bias`)]
    const weight = await valuesOf(weights, `${layer}.weight`)
    const stored = rounded.get(`${layer}.weight`)!.source as { file: string; offset: number; length: number }
    const bytes = new Int8Array(await readRange(stored.file, stored.offset, stored.length))
    const steps = await valuesOf(rounded, `${layer}.weight_scale`)
    const added = await valuesOf(rounded, `${layer}.weight_shift`)
    for (const [output, step] of steps.entries()) {
      const start = output * scale.length
      let sum = 0
      for (const [input, factor] of scale.entries()) {
        const exact = weight[start + input] * factor
        expect(Math.abs(bytes[start + input] * step - exact)).toBeLessThanOrEqual(step * 0.501)
        sum += weight[start + input] * shift[input]
      }
      expect(added[output]).toBeCloseTo(sum, 5)
    }
  })
})
