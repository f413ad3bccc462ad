// Rounding of weights and the choice of a layer's range, on numbers small enough to follow.
import { describe, expect, test } from 'vitest'
import { calibrationVersion, parseCalibration } from '#engine/quantize/calibration-file.ts'
import { chooseLayers, largestLayerError, rangeOf } from '#engine/quantize/choose-layers.ts'
import type { InputStatistics } from '#engine/quantize/input-statistics.ts'
import { normBefore, quantizableLayers } from '#engine/quantize/quantization.ts'
import { asColumns, roundWeights, rowProducts, rowSums } from '#engine/quantize/round-weights.ts'
import { factorsOf, inverseFactorsOf, smoothingOf } from '#engine/quantize/smoothing.ts'
import { weightLimit } from '#engine/quantize/weight-limit.ts'
import type { StoredTensor, Weights } from '#engine/weights/checkpoint.ts'
import { TorchGenerator } from '#tensor/random.ts'

test('each output channel has its own scale, and the largest weight is the limit', () => {
  const weight = Float32Array.of(1, -0.5, 0.25, 0, 8, -8, 4, 2, 0, 0, 0, 0)
  const { values, scales } = roundWeights('w', weight, { outputs: 3, kernelArea: 1, limit: 127 }, null)
  expect([...values]).toEqual([127, -64, 32, 0, 127, -127, 64, 32, 0, 0, 0, 0])
  expect([...scales]).toEqual([Math.fround(1 / 127), Math.fround(8 / 127), 1])
  const smoothed = roundWeights('w', weight, { outputs: 3, kernelArea: 1, limit: 64 }, Float32Array.of(1, 2, 1, 1))
  expect([...smoothed.values.subarray(0, 8)]).toEqual([64, -64, 16, 0, 32, -64, 16, 8])
  expect(() => roundWeights('w', Float32Array.of(NaN), { outputs: 1, kernelArea: 1, limit: 127 }, null)).toThrow(
    'weight "w" holds NaN or infinity',
  )
})

test('the sum of a rounded row is what it gives for an input of ones', () => {
  const rounded = { values: Int8Array.of(127, -64, 32, 0, 127, 127), scales: Float32Array.of(0.5, 2) }
  expect([...rowSums(rounded)]).toEqual([47.5, 508])
})

test('rows of a weight times one vector', () => {
  expect([...rowProducts(Float32Array.of(1, 2, 3, 4, 5, 6), Float32Array.of(1, 0, -1))]).toEqual([-2, -2])
})

test('columns lie pixel by pixel of the kernel, in as many matrices as there are parts', () => {
  // (2 outputs, 2 inputs, 2 pixels)
  const values = Int8Array.of(0, 1, 10, 11, 100, 101, 110, 111)
  expect([...asColumns(values, { outputs: 2, kernelArea: 2, parts: 1 })]).toEqual([0, 100, 10, 110, 1, 101, 11, 111])
  const rows = Int8Array.of(1, 2, 3, 4, 5, 6, 7, 8)
  expect([...asColumns(rows, { outputs: 4, kernelArea: 1, parts: 2 })]).toEqual([1, 3, 2, 4, 5, 7, 6, 8])
})

test('a range holds 0 exactly and a quarter more than was seen', () => {
  expect(rangeOf(0, 204)).toEqual({ scale: 1, zeroPoint: 0 })
  expect(rangeOf(-102, 102)).toEqual({ scale: 1, zeroPoint: 128 })
  expect(rangeOf(3, 204)).toEqual({ scale: 1, zeroPoint: 0 })
  expect(() => rangeOf(0, Infinity)).toThrow('reaches 0 to Infinity')
})

/** Rows of 16 channels, and a weight of 32 outputs over them; `outlier` is how much larger one channel is. */
function layerOf(outlier: number): { statistics: InputStatistics; weights: Weights } {
  const [channels, count, outputs] = [16, 64, 32]
  const generator = new TorchGenerator(1)
  const samples = generator.randn([count, channels]).data
  for (let row = 0; row < count; row++) samples[row * channels + 3] *= outlier
  const extreme = (channel: number, choose: (...values: number[]) => number): number =>
    choose(...Array.from({ length: count }, (_, row) => samples[row * channels + channel]))
  const weight = generator.randn([outputs, channels]).data
  for (let output = 0; output < outputs; output++) weight[output * channels + 3] /= outlier
  return {
    statistics: {
      input: {
        paths: ['m'],
        norm: null,
        channels,
        kernelArea: 1,
        isMap: false,
        samples: count,
        minimum: '',
        maximum: '',
        sample: '',
      },
      minimum: Float32Array.from({ length: channels }, (_, channel) => extreme(channel, Math.min)),
      maximum: Float32Array.from({ length: channels }, (_, channel) => extreme(channel, Math.max)),
      samples,
      count,
    },
    weights: new Map([
      ['m.weight', { dtype: 'F32', shape: [outputs, channels], source: { bytes: new Uint8Array(weight.buffer) } }],
    ]),
  }
}

test('a channel that is far larger than the others moves into the weights', async () => {
  const even = layerOf(1)
  const [plain] = await chooseLayers(even.statistics, even.weights, 127)
  expect(plain.error).toBeLessThan(0.015)
  expect(plain.error).toBeGreaterThan(0.005)
  const uneven = layerOf(200)
  const [smoothed] = await chooseLayers(uneven.statistics, uneven.weights, 127)
  expect(smoothed.method).toBe('smoothing')
  const factors = factorsOf(smoothed.smoothing!)
  expect(factors[3] / factors[2]).toBeGreaterThan(20)
  expect(smoothed.error).toBeLessThan(0.02)
})

test('factors are told to the nearest eighth of an octave, within sixteen octaves', () => {
  const told = factorsOf(smoothingOf(Float32Array.of(1, 2, 0.5, 1.05, 3, 1e9, 1e-9)))
  expect([...told]).toEqual([1, 2, 0.5, 2 ** 0.125, 2 ** 1.625, 2 ** 15.875, 2 ** -16].map(Math.fround))
  expect(smoothingOf(new Float32Array(640).fill(1))).toHaveLength(856)
  const every = Buffer.from(Uint8Array.from({ length: 256 }, (_, byte) => byte)).toString('base64')
  expect(smoothingOf(factorsOf(every))).toBe(every)
  const inverse = inverseFactorsOf(every)
  expect([...factorsOf(every)].every((factor, channel) => Math.fround(1 / factor) === inverse[channel])).toBe(true)
})

test('a layer that rounding would hurt stays as it is, with the error that it would have had', async () => {
  // What cannot be smoothed: one row is far larger than the others.
  const { statistics, weights } = layerOf(1)
  for (let i = 0; i < 16; i++) statistics.maximum[i] *= 300
  const [kept] = await chooseLayers(statistics, weights, 127)
  expect(kept.error).toBeGreaterThan(largestLayerError)
  expect(kept).toMatchObject({ path: 'm', range: null, smoothing: null })
})

test('rows of small values count beside their own size: a range that is made for others leaves the layer as it is', async () => {
  const { statistics, weights } = layerOf(1)
  const { channels } = statistics.input
  // Every fourth row is eighty times larger, in all channels, so that no smoothing helps.
  for (let row = 0; row < statistics.count; row += 4)
    for (let i = row * channels; i < (row + 1) * channels; i++) statistics.samples[i] *= 80
  for (let i = 0; i < channels; i++) {
    statistics.minimum[i] *= 80
    statistics.maximum[i] *= 80
  }
  const [kept] = await chooseLayers(statistics, weights, 127)
  expect(kept.error).toBeGreaterThan(largestLayerError)
  expect(kept.range).toBeNull()
  // Rows of nothing but zeros have no size to count beside.
  for (let row = 0; row < statistics.count; row++)
    if (row % 4) statistics.samples.fill(0, row * channels, (row + 1) * channels)
  const [rounded] = await chooseLayers(statistics, weights, 127)
  expect(rounded.error).toBeLessThan(0.02)
  expect(rounded.range).not.toBeNull()
})

test('what is rounded: no first or last layer, no embedding, no shortcut, no downsampler', () => {
  const shapes = (keys: Record<string, readonly number[]>) =>
    new Map(Object.entries(keys).map(([key, shape]) => [key, { shape }]))
  expect(
    quantizableLayers(
      shapes({
        'conv_in.weight': [4, 4, 3, 3],
        'time_embedding.linear_1.weight': [4, 4],
        'down_blocks.0.resnets.0.norm1.weight': [4],
        'down_blocks.0.resnets.0.conv1.weight': [4, 4, 3, 3],
        'down_blocks.0.resnets.0.time_emb_proj.weight': [4, 4],
        'down_blocks.0.resnets.0.conv_shortcut.weight': [4, 4, 1, 1],
        'down_blocks.0.downsamplers.0.conv.weight': [4, 4, 3, 3],
        'up_blocks.0.upsamplers.0.conv.weight': [4, 4, 3, 3],
        'up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight': [4, 4],
        'conv_out.weight': [4, 4, 3, 3],
      }),
    ),
  ).toEqual([
    'down_blocks.0.resnets.0.conv1',
    'up_blocks.0.upsamplers.0.conv',
    'up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q',
  ])
})

describe('behind a norm', () => {
  const path = 'down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q'
  const norm = 'down_blocks.0.attentions.0.transformer_blocks.0.norm2'
  /** What `layerOf` gives, behind a norm with this scale and bias. */
  function behindNorm(scale: Float32Array, shift: Float32Array): { statistics: InputStatistics; weights: Weights } {
    const { statistics, weights } = layerOf(1)
    const stored = (values: Float32Array): StoredTensor => ({
      dtype: 'F32',
      shape: [values.length],
      source: { bytes: new Uint8Array(values.buffer) },
    })
    return {
      statistics: { ...statistics, input: { ...statistics.input, paths: [path], norm } },
      weights: new Map([
        [`${path}.weight`, weights.get('m.weight')!],
        [`${norm}.weight`, stored(scale)],
        [`${norm}.bias`, stored(shift)],
      ]),
    }
  }
  const uneven = Float32Array.from({ length: 16 }, (_, channel) => (channel === 5 ? -40 : 1))
  const shift = Float32Array.from({ length: 16 }, (_, channel) => (channel === 2 ? 30 : 0.1))

  test('its scale and bias go into the layer, and the range is that of what it normalised', async () => {
    const { statistics, weights } = behindNorm(uneven, shift)
    const [chosen] = await chooseLayers(statistics, weights, 127)
    expect(chosen).toMatchObject({ path, method: 'norm', smoothing: null })
    expect(chosen.range).toEqual(rangeOf(Math.min(...statistics.minimum), Math.max(...statistics.maximum)))
    // The same error as a norm without either would have: only the weights' one column is wider.
    const [even] = await chooseLayers(layerOf(1).statistics, layerOf(1).weights, 127)
    expect(chosen.error).toBeLessThan(2 * even.error)
  })

  test('what a layer reads is rounded when that is much better', async () => {
    // A channel that the norm itself makes small: without its scale it is the largest of all.
    const { statistics, weights } = behindNorm(
      Float32Array.from({ length: 16 }, (_, channel) => (channel === 3 ? 1e-3 : 1)),
      new Float32Array(16),
    )
    const samples = statistics.samples.map((value, i) => (i % 16 === 3 ? value * 1000 : value))
    const wide = (values: Float32Array): Float32Array =>
      values.map((value, channel) => (channel === 3 ? value * 1000 : value))
    const [chosen] = await chooseLayers(
      { ...statistics, samples, minimum: wide(statistics.minimum), maximum: wide(statistics.maximum) },
      weights,
      127,
    )
    expect(chosen.method).not.toBe('norm')
    expect(chosen.error).toBeLessThan(0.02)
  })

  test('is told by the names of transformers', () => {
    expect(normBefore('a.transformer_blocks.3.attn1.to_v')).toBe('a.transformer_blocks.3.norm1')
    expect(normBefore('a.transformer_blocks.3.ff.net.0.proj')).toBe('a.transformer_blocks.3.norm3')
    for (const other of ['attn1.to_out.0', 'attn2.to_k', 'attn2.to_v', 'ff.net.2'])
      expect(normBefore(`a.transformer_blocks.3.${other}`)).toBeNull()
    expect(normBefore('a.proj_in')).toBeNull()
  })
})

test('processors without VNNI get smaller weights', () => {
  expect(weightLimit('x64', 'flags\t: fpu avx2 avx512_vnni')).toBe(127)
  expect(weightLimit('x64', 'flags\t: fpu avx2 avx_vnni')).toBe(127)
  expect(weightLimit('x64', 'flags\t: fpu avx2 avx512f')).toBe(64)
  expect(weightLimit('x64', '')).toBe(64)
  expect(weightLimit('arm64', '')).toBe(127)
})

test('a damaged calibration, or one of another version or network, is none', () => {
  const layer = {
    path: 'm',
    method: 'min-max',
    error: 0.01,
    range: { scale: 0.1, zeroPoint: 3 },
    smoothing: null,
    norm: null,
  }
  const good = { version: calibrationVersion, network: 'n', settings: {}, layers: [layer], outputErrors: [] }
  const parse = (changes: object): unknown => parseCalibration(JSON.stringify({ ...good, ...changes }), 'n')
  expect(parse({})).toEqual(good)
  expect(parseCalibration(JSON.stringify(good).slice(0, -10), 'n')).toBeNull()
  expect(parse({ version: 0 })).toBeNull()
  expect(parse({ network: 'other' })).toBeNull()
  expect(parse({ layers: [{ ...layer, range: { scale: 0, zeroPoint: 3 } }] })).toBeNull()
  expect(parse({ layers: [{ ...layer, smoothing: 'AAgQ' }] })).not.toBeNull()
  for (const [path, whole] of [
    ['a.transformer_blocks.0.attn2.to_q', true],
    ['a.proj_in', false],
  ] as const)
    expect(parse({ layers: [{ ...layer, path, method: 'norm' }] }) !== null).toBe(whole)
  expect(parse({ layers: [{ ...layer, method: 'percentile' }] })).toBeNull()
  for (const smoothing of [[1, 1], 'AAg', 'AA*Q']) expect(parse({ layers: [{ ...layer, smoothing }] })).toBeNull()
})
