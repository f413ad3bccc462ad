// Whole networks against diffusers and transformers (tools/reference/networks.py), with the weights of three models.
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { backendNames, type Backend, type FloatFormat, type Session } from '#engine/backend.ts'
import { clipTextGraph, tokenEmbeddingKey } from '#engine/models/clip-text.ts'
import { addEmbeds, timeProjection } from '#engine/models/time-embedding.ts'
import { unetGraph, unetHalves } from '#engine/models/unet.ts'
import { vaeDecoderGraph, vaeEncoderGraph } from '#engine/models/vae.ts'
import { UNet, type UNetObserver } from '#engine/networks/unet.ts'
import { bindWeights } from '#engine/onnx/bind-weights.ts'
import type { Checkpoint, Weights } from '#engine/weights/checkpoint.ts'
import { openCheckpoint } from '#engine/weights/open-checkpoint.ts'
import { TorchGenerator } from '#tensor/random.ts'
import { tensor, type Tensor } from '#tensor/tensor.ts'
import {
  readGolden,
  readGoldenIntegers,
  relativeError,
  runChain,
  runGraph,
  weightsInMemory,
} from '../support/golden.ts'
import { hasBf16, testBackend } from '../support/openvino.ts'

const root = path.join(import.meta.dirname, '../..')
const models = {
  'tiny-a': path.join(root, 'test/golden/models/tiny-a'),
  'tiny-b': path.join(root, 'test/golden/models/tiny-b'),
  pocket: path.join(root, 'test/golden/models/pocket'),
}
const tolerance = { fp32: 1e-5, fp16: 1.5e-2 } as const
/** Branches of rank 0 against none, and branches against the weights that they are added to. */
const loraTolerance = { fp32: { none: 1e-6, added: 1e-5 }, bf16: { none: 4e-2, added: 4e-2 } } as const

describe.each(Object.entries(models))('%s', (name, folder) => {
  const file = `networks/${name}.safetensors`
  const load = async (component: (checkpoint: Checkpoint) => Weights, precision: FloatFormat): Promise<Weights> =>
    await weightsInMemory(component(await openCheckpoint(folder)), precision === 'fp16' ? 'F16' : 'F32')

  describe.each([
    ['fp32', 'onnxruntime'],
    ['fp16', 'onnxruntime'],
    ['fp32', 'openvino'],
  ] as const)('%s on %s', (precision, backend) => {
    test('UNet, also at sizes that the halvings do not divide', async () => {
      const golden = await readGolden(file)
      const { config } = (await openCheckpoint(folder)).unet
      const weights = await load((checkpoint) => checkpoint.unet.weights, precision)
      const cases = casesOf(golden, 'unet')
      expect(cases.length).toBeGreaterThan(0)
      for (const prefix of cases) {
        const at = (key: string): Tensor => golden.get(`${prefix}/${key}`)!
        const [batch, , height, width] = at('sample').shape
        const feeds = {
          sample: at('sample'),
          encoder_hidden_states: at('encoder_hidden_states'),
          time_proj: timeProjection(config, at('timestep').data[0], batch),
          add_embeds: addEmbeds(config, at('text_embeds'), rows(at('time_ids'))),
        }
        const options = { precision, batch, height, width, textLength: 77, loraTargets: new Set<string>() }
        const ways = new Map<string, Record<string, Tensor>>()
        for (const attention of ['fused', 'plain'] as const) {
          const graph = unetGraph(config, { ...options, attention, controlResiduals: false })
          ways.set(attention, await runGraph(graph, weights, feeds, backend))
        }
        if (backend === 'openvino') {
          const halves = unetHalves(config, { ...options, attention: 'fused', controlResiduals: false })
          ways.set('halves', await runChain(halves, weights, feeds))
        }
        for (const [way, { noise_pred, ...others }] of ways) {
          expect(relativeError(noise_pred, at('y')), `${prefix} ${way}`).toBeLessThan(tolerance[precision])
          expect(others).toEqual({})
        }
        if (!golden.has(`${prefix}/y-control`)) continue
        const residuals = [...golden].filter(([key]) => key.startsWith(`${prefix}/down.`))
        const graph = unetGraph(config, { ...options, attention: 'fused', controlResiduals: true })
        const { noise_pred } = await runGraph(
          graph,
          weights,
          {
            ...feeds,
            ...Object.fromEntries(
              residuals.map(([key, value]) => [`down_block_additional_residuals.${key.split('.').at(-1)}`, value]),
            ),
            mid_block_additional_residual: at('mid'),
          },
          backend,
        )
        expect(relativeError(noise_pred, at('y-control'))).toBeLessThan(tolerance[precision])
        expect(relativeError(noise_pred, at('y'))).toBeGreaterThan(0.1)
      }
    })

    test('VAE, both ways', async () => {
      const golden = await readGolden(file)
      const { config } = (await openCheckpoint(folder)).vae!
      const weights = await load((checkpoint) => checkpoint.vae!.weights, precision)
      for (const prefix of casesOf(golden, 'vae')) {
        const at = (key: string): Tensor => golden.get(`${prefix}/${key}`)!
        const [batch, , height, width] = at('latents').shape
        const options = { precision, attention: 'fused', batch, height, width } as const
        const { image } = await runGraph(vaeDecoderGraph(config, options), weights, { latents: at('latents') }, backend)
        expect(relativeError(image, at('image'))).toBeLessThan(tolerance[precision])
        const { moments } = await runGraph(vaeEncoderGraph(config, options), weights, { image: at('picture') }, backend)
        expect(relativeError(moments, at('moments'))).toBeLessThan(tolerance[precision])
      }
    })

    test('both text encoders: penultimate and earlier hidden states, pooled embedding', async () => {
      const golden = await readGolden(file)
      const checkpoint = await openCheckpoint(folder)
      for (const [prefix, component] of [
        ['text', checkpoint.textEncoder!],
        ['text2', checkpoint.textEncoder2],
      ] as const) {
        const { config } = component
        const weights = await load(() => component.weights, precision)
        const fp32 = await weightsInMemory(component.weights)
        const ids = await readGoldenIntegers(file, `${prefix}/ids`)
        const token_embeds = lookUp(fp32, ids, config.hiddenSize)
        const eos = [0, 1].map((row) => ids.slice(row * 77, (row + 1) * 77).indexOf(config.vocabSize - 1))
        const eos_positions = { shape: [2], data: BigInt64Array.from(eos, BigInt) }
        const pooled = config.projectionDim !== null
        for (const skipLayers of [1, 2]) {
          const graph = clipTextGraph(config, { precision, batch: 2, skipLayers, pooled })
          const outputs = await runGraph(graph, weights, { token_embeds, ...(pooled && { eos_positions }) }, backend)
          const outputNames = { [`hidden-${skipLayers}`]: 'hidden_states', ...(pooled && { pooled: 'pooled' }) }
          for (const [goldenName, output] of Object.entries(outputNames))
            expect(relativeError(outputs[output], golden.get(`${prefix}/${goldenName}`)!)).toBeLessThan(
              tolerance[precision],
            )
        }
      }
    })
  })
})

test.each(backendNames)(
  '%s: one UNet for texts of any length computes what those of one length do',
  async (backend) => {
    const { config, weights: stored } = (await openCheckpoint(models['tiny-b'])).unet
    const weights = await weightsInMemory(stored)
    const fixed = { precision: 'fp32', batch: 2, height: 8, width: 12, loraTargets: new Set<string>() } as const
    for (const attention of ['fused', 'plain'] as const) {
      const options = { ...fixed, attention, controlResiduals: false }
      const graph = unetGraph(config, { ...options, textLength: null })
      await using session = await testBackend(backend).create(bindWeights(graph, weights), {
        weightsInPlace: false,
        keepActivations: true,
        arithmetic: 'graph',
      })
      for (const textLength of [77, 231, 154]) {
        const generator = new TorchGenerator(textLength)
        const feeds = {
          sample: generator.randn([2, 4, 8, 12]),
          encoder_hidden_states: generator.randn([2, textLength, config.crossAttentionDim]),
          time_proj: timeProjection(config, 500, 2),
          add_embeds: generator.randn([2, config.addEmbeddingInputDim]),
        }
        const { noise_pred: expected } = await runGraph(unetGraph(config, { ...options, textLength }), weights, feeds)
        const { noise_pred } = await session.run(feeds)
        expect(relativeError(noise_pred, expected), `${attention} ${textLength}`).toBeLessThan(tolerance.fp32)
      }
    }
  },
)

test('a UNet is loaded in halves where it is large and its backend takes several graphs', async () => {
  const { config, weights } = (await openCheckpoint(models['tiny-b'])).unet
  const small = await weightsInMemory(weights)
  const large = new Map(small).set('unused', {
    dtype: 'F32',
    shape: [2 ** 29],
    source: { file: import.meta.filename, offset: 0, length: 2 ** 31 },
  })
  const created: string[] = []
  const session = { run: () => Promise.reject(new Error('is not run')), cancel: () => false, close: async () => {} }
  const create = async (what: string): Promise<Session> => {
    created.push(what)
    return { ...session, [Symbol.asyncDispose]: session.close }
  }
  const one: Backend = { name: 'openvino', device: 'cpu', create: () => create('whole') }
  const many: Backend = { ...one, createChain: (graphs) => create(`${graphs.length} graphs`) }
  const size = { batch: 1, height: 8, width: 8, textLength: null }
  const observer: UNetObserver = { build: () => {}, evaluated: () => {} }
  for (const [backend, stored, watching] of [
    [one, large, undefined],
    [many, small, undefined],
    [many, large, observer],
    [many, large, undefined],
  ] as const) {
    const source = { backend, config, weights: stored, precision: 'fp32', arithmetic: 'graph' } as const
    await using _ = await UNet.load(source, size, new Set(), watching)
  }
  expect(created).toEqual(['whole', 'whole', 'whole', '2 graphs'])
})

test('the halves of a UNet share its weights about evenly, and none twice', async () => {
  const { config, weights } = (await openCheckpoint(models.pocket)).unet
  const options = { precision: 'fp32', attention: 'fused', batch: 1, height: 16, width: 16, textLength: null } as const
  const halves = unetHalves(config, { ...options, loraTargets: new Set(), controlResiduals: false })
  const keys = halves.map((graph) => new Set([...graph.weights.values()].map(({ key }) => key)))
  expect([...keys[0]].filter((key) => keys[1].has(key))).toEqual([])
  expect(keys[0].union(keys[1])).toEqual(new Set(weights.keys()))
  const shares = halves.map((graph) =>
    [...graph.weights.values()].reduce((sum, { readAs }) => sum + readAs.reduce((product, n) => product * n, 1), 0),
  )
  expect(shares[0] / shares[1]).toBeGreaterThan(0.5)
  expect(shares[0] / shares[1]).toBeLessThan(2)
})

test.each([
  ['onnxruntime', 'fp32'],
  ['openvino', 'fp32'],
  ['openvino', 'bf16'],
] as const)(
  '%s in %s: every linear of the transformers can take a LoRA branch, and a zero one changes nothing',
  async (backend, precision) => {
    if (precision === 'bf16' && !hasBf16()) return console.warn('not run here: this CPU has no bf16')
    const { config, weights: stored } = (await openCheckpoint(models['tiny-b'])).unet
    const exact = await weightsInMemory(stored)
    const inPrecision = async (weights: Weights): Promise<Weights> =>
      precision === 'bf16' ? await weightsInMemory(weights, 'BF16') : weights
    const weights = await inPrecision(exact)
    const arithmetic = precision === 'bf16' ? 'bf16' : 'graph'
    const paths = [...stored.keys()]
      .filter((key) =>
        /attentions.*\.(to_[qkv]|to_out\.0|ff\.net\.0\.proj|ff\.net\.2|proj_in|proj_out)\.weight$/.test(key),
      )
      .map((key) => key.slice(0, -'.weight'.length))
    const options = {
      precision,
      attention: 'fused',
      batch: 1,
      height: 8,
      width: 8,
      textLength: 77,
      controlResiduals: false,
    } as const
    const wave = (shape: number[], scale: number): Tensor => {
      const count = shape.reduce((product, size) => product * size, 1)
      return tensor(
        shape,
        Float32Array.from({ length: count }, (_, i) => Math.sin(i * 1.7) * scale),
      )
    }
    const feeds = {
      sample: wave([1, 4, 8, 8], 1),
      encoder_hidden_states: wave([1, 77, config.crossAttentionDim], 1),
      time_proj: timeProjection(config, 500, 1),
      add_embeds: wave([1, config.addEmbeddingInputDim], 1),
    }
    const shapeOf = (path: string): number[] => [...stored.get(`${path}.weight`)!.shape]
    const lora = (rank: number): Record<string, Tensor> =>
      Object.fromEntries(
        paths.flatMap((path) => [
          [`${path}.lora_A`, wave([shapeOf(path)[1], rank], 0.1)],
          [`${path}.lora_B`, wave([rank, shapeOf(path)[0]], 0.1)],
        ]),
      )
    const optionsWith = (targets: readonly string[]) => ({ ...options, loraTargets: new Set(targets) })
    const run = async (targets: readonly string[], from: Weights, loras: Record<string, Tensor>) => {
      const graph = unetGraph(config, optionsWith(targets))
      return await runGraph(graph, from, { ...feeds, ...loras }, backend, arithmetic)
    }
    const plain = await run([], weights, {})
    const none = await run(paths, weights, lora(0))
    const some = await run(paths, weights, lora(4))
    expect(relativeError(none['noise_pred'], plain['noise_pred'])).toBeLessThan(loraTolerance[precision].none)
    expect(relativeError(some['noise_pred'], plain['noise_pred'])).toBeGreaterThan(0.2)
    const inHalves = backend === 'openvino' ? [unetHalves(config, optionsWith(paths))] : []
    for (const halves of inHalves) {
      const { noise_pred } = await runChain(halves, weights, { ...feeds, ...lora(4) }, arithmetic)
      expect(relativeError(noise_pred, some['noise_pred'])).toBeLessThan(loraTolerance[precision].none)
    }
    const merged = new Map(exact)
    for (const path of paths) {
      const [out, inputs] = shapeOf(path)
      const feedsOf = lora(4)
      const [a, b] = [feedsOf[`${path}.lora_A`].data, feedsOf[`${path}.lora_B`].data]
      const source = exact.get(`${path}.weight`)!.source as { bytes: Uint8Array }
      const data = new Float32Array(source.bytes.slice().buffer)
      for (let o = 0; o < out; o++)
        for (let i = 0; i < inputs; i++)
          for (let r = 0; r < 4; r++) data[o * inputs + i] += a[i * 4 + r] * b[r * out + o]
      merged.set(`${path}.weight`, {
        dtype: 'F32',
        shape: [out, inputs],
        source: { bytes: new Uint8Array(data.buffer) },
      })
    }
    const whole = await run([], await inPrecision(merged), {})
    expect(relativeError(some['noise_pred'], whole['noise_pred'])).toBeLessThan(loraTolerance[precision].added)
  },
)

function casesOf(golden: ReadonlyMap<string, Tensor>, kind: string): string[] {
  return [...new Set([...golden.keys()].map((key) => key.split('/')[0]))].filter((name) => name.startsWith(`${kind}-`))
}

function rows({ data, shape }: Tensor): number[][] {
  const [count, width] = shape
  return Array.from({ length: count }, (_, row) => Array.from(data.subarray(row * width, (row + 1) * width)))
}

function lookUp(weights: Weights, ids: readonly number[], width: number): Tensor {
  const source = weights.get(tokenEmbeddingKey)!.source as { bytes: Uint8Array }
  const table = new Float32Array(source.bytes.slice().buffer)
  const data = new Float32Array(ids.length * width)
  ids.forEach((id, index) => data.set(table.subarray(id * width, (id + 1) * width), index * width))
  return tensor([ids.length / 77, 77, width], data)
}
