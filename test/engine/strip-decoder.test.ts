// The decoder in strips against the whole one: the same picture, for less memory.
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { onnxruntimeBackend } from '#engine/backends/onnxruntime.ts'
import { vaeDecoderGraph } from '#engine/models/vae.ts'
import { vaeScaleFactor, type VaeConfig } from '#engine/models/vae-config.ts'
import { StripDecoder, stripDecodeBytes } from '#engine/networks/strip-decoder.ts'
import { StripMap } from '#engine/networks/strip-map.ts'
import { vaeDecodeBytes } from '#engine/networks/vae-decoder.ts'
import { openCheckpoint } from '#engine/weights/open-checkpoint.ts'
import { TorchGenerator } from '#tensor/random.ts'
import { tensor, type Tensor } from '#tensor/tensor.ts'
import { relativeError, runGraph, weightsInMemory } from '../support/golden.ts'

const root = path.join(import.meta.dirname, '../..')
const models = {
  'tiny-a': path.join(root, 'test/golden/models/tiny-a'),
  'tiny-b': path.join(root, 'test/golden/models/tiny-b'),
  pocket: path.join(root, 'test/golden/models/pocket'),
}

describe.each(Object.entries(models))('%s', (_, folder) => {
  // Strips of one row of latents, of two heights, and one strip for everything.
  test.each([1, 3, 7])('the picture is the whole one with strips of up to %i rows of latents', async (rows) => {
    const { config, weights: stored } = (await openCheckpoint(folder)).vae!
    const weights = await weightsInMemory(stored)
    const size = { height: 7, width: 5 }
    const latents = new TorchGenerator(3).randn([1, config.latentChannels, size.height, size.width])
    const options = { precision: 'fp32', attention: 'fused', batch: 1, ...size } as const
    const { image: whole } = await runGraph(vaeDecoderGraph(config, options), weights, { latents })

    const backend = onnxruntimeBackend({ device: 'cpu', threads: 2, externalDataRoot: '/' })
    const source = { backend, config, weights, precision: 'fp32', arithmetic: 'graph' } as const
    await using decoder = await StripDecoder.load(source, size, rows * bytesOfRow(config, size.width))
    const picture = await decoder.decode(latents)
    expect(relativeError(picture, whole)).toBeLessThan(2e-5)
    expect(farthest(picture, whole) / 2).toBeLessThan(0.01 / 255)
    // Nothing of a picture stays for the next one.
    expect(await decoder.decode(latents)).toEqual(picture)
  })
})

test('moments are those of the whole map, whatever its strips', () => {
  const map = new TorchGenerator(5).randn([1, 4, 6, 3])
  for (const [index, value] of map.data.entries()) map.data[index] = value + 100
  const groups = [map.data.subarray(0, 36), map.data.subarray(36)]
  const expected = groups.map((values) => {
    const mean = values.reduce((sum, value) => sum + value, 0) / 36
    return { mean, variance: values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / 36 }
  })
  for (const heights of [[6], [1, 2, 3], [2, 2, 2]]) {
    const moments = StripMap.cut(map, heights).moments(2)
    moments.forEach(({ mean, variance }, group) => {
      expect(mean).toBeCloseTo(expected[group].mean, 10)
      expect(variance).toBeCloseTo(expected[group].variance, 9)
    })
  }
})

test('strips come with their neighbours rows, and zeros outside the map', () => {
  const map = tensor([1, 1, 3, 1], Float32Array.of(1, 2, 3))
  const strips = StripMap.cut(map, [1, 2]).strips({ consume: true })
  // A strip is valid until the next one: it is looked at meanwhile.
  const seen = Array.from(strips, ({ inside, padded }) => [[...padded.data], [...inside.data]])
  expect(seen).toEqual([
    [
      [0, 1, 2],
      [0, 1, 1],
    ],
    [
      [1, 2, 3, 0],
      [1, 1, 1, 0],
    ],
  ])
  expect(StripMap.cut(map, [2, 1]).join()).toEqual(map)
  expect(() => StripMap.cut(map, [2, 2])).toThrow('strips of 4 rows for a map of 3')
})

test("SDXL's pictures of 1024² are decoded in strips, for whose activations below 1.6 GB are set aside", () => {
  const config = { blockOutChannels: [128, 256, 512, 512], latentChannels: 4 } as const
  const size = { height: 128, width: 128 }
  const sdxl = config as unknown as VaeConfig
  expect(vaeDecodeBytes(sdxl, size)).toBe(stripDecodeBytes(sdxl, size))
  expect(vaeDecodeBytes(sdxl, size)).toBeLessThan(1.6e9)
  // A small picture is decoded whole.
  expect(vaeDecodeBytes(sdxl, { height: 32, width: 32 })).toBeLessThan(0.3e9)
})

/** Bytes of the widest map's rows that a row of latents becomes. */
function bytesOfRow(config: VaeConfig, width: number): number {
  return width * vaeScaleFactor(config) ** 2 * (config.blockOutChannels[1] ?? config.blockOutChannels[0]) * 4
}

function farthest(a: Tensor, b: Tensor): number {
  return a.data.reduce((most, value, index) => Math.max(most, Math.abs(value - b.data[index])), 0)
}
