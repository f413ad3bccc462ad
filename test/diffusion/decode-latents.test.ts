import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { decodeLatents } from '#diffusion/decode-latents.ts'
import { scaleLatents, unscaleLatents } from '#diffusion/latent-scale.ts'
import type { Networks } from '#diffusion/networks.ts'
import { tileStarts } from '#diffusion/tiles.ts'
import { onnxruntimeBackend } from '#engine/backends/onnxruntime.ts'
import type { VaeConfig } from '#engine/models/vae-config.ts'
import { VaeDecoder } from '#engine/networks/vae-decoder.ts'
import { openCheckpoint } from '#engine/weights/open-checkpoint.ts'
import { TorchGenerator } from '#tensor/random.ts'
import { tensor, type Tensor } from '#tensor/tensor.ts'
import { weightsInMemory } from '../support/golden.ts'

const root = path.join(import.meta.dirname, '../..')

test('tiles start at the edges, cover everything and overlap by a quarter', () => {
  for (const [length, size] of [
    [10, 10],
    [10, 12],
    [33, 32],
    [48, 32],
    [128, 64],
    [192, 96],
    [500, 32],
  ] as const) {
    const starts = tileStarts(length, size)
    expect(starts[0]).toBe(0)
    expect(starts.at(-1)).toBe(Math.max(0, length - size))
    for (let i = 1; i < starts.length; i++)
      expect(starts[i] - starts[i - 1]).toBeLessThanOrEqual(Math.ceil(size * 0.75))
  }
})

test('unscaling divides by the factor and adds the shift, or uses channel statistics', () => {
  const latents = tensor([1, 2, 1, 2], Float32Array.of(1, 2, 3, 4))
  const config = { scalingFactor: 0.5, shiftFactor: null, latentsMean: null, latentsStd: null } as VaeConfig
  expect([...unscaleLatents(config, latents).data]).toEqual([2, 4, 6, 8])
  expect([...unscaleLatents({ ...config, shiftFactor: 0.25 }, latents).data]).toEqual([2.25, 4.25, 6.25, 8.25])
  const statistics = { ...config, latentsMean: [10, 20], latentsStd: [1, 0.5] }
  expect([...unscaleLatents(statistics, latents).data]).toEqual([12, 14, 23, 24])
})

test('scaling is the way back', () => {
  const latents = tensor([1, 2, 1, 2], Float32Array.of(12, 14, 23, 24))
  const config = { scalingFactor: 0.5, shiftFactor: 2, latentsMean: null, latentsStd: null } as VaeConfig
  expect([...scaleLatents(config, latents).data]).toEqual([5, 6, 10.5, 11])
  const statistics = { ...config, latentsMean: [10, 20], latentsStd: [1, 0.5] }
  expect([...scaleLatents(statistics, latents).data]).toEqual([1, 2, 3, 4])
})

describe('a picture decoded in tiles', () => {
  test('is the whole one but for what a tile cannot see, and shows no seams', async () => {
    const { config, weights } = (await openCheckpoint(path.join(root, 'test/golden/models/pocket'))).vae!
    const backend = onnxruntimeBackend({ device: 'cpu', threads: 2, externalDataRoot: '/' })
    const source = {
      backend,
      config,
      weights: await weightsInMemory(weights),
      precision: 'fp32',
      arithmetic: 'graph',
    } as const
    const sizes: string[] = []
    const networks = (limit: number | null): Networks =>
      ({
        guidanceBatch: 1,
        vaeDecoder: (options) => {
          sizes.push(`${options.height}x${options.width}`)
          return VaeDecoder.load(source, options)
        },
        decodeEdgeLimit: async () => limit,
      }) as Partial<Networks> as Networks
    // Smooth latents, as a picture's are: noise would differ everywhere for lack of context.
    const latents = smooth(new TorchGenerator(3).randn([1, config.latentChannels, 24, 20]))
    const whole = await decodeLatents(networks(null), config, latents)
    const tiled = await decodeLatents(networks(16), config, latents)
    expect(sizes).toEqual(['24x20', '16x16'])
    expect(tiled.shape).toEqual(whole.shape)
    expect(meanDifference(whole, tiled) * 127.5).toBeLessThan(6)
    // A seam is a jump between neighbouring rows that the whole picture does not have.
    const seam = largestRowJump(tiled) - largestRowJump(whole)
    expect(seam * 127.5).toBeLessThan(1)
  })
})

function smooth({ shape, data }: Tensor): Tensor {
  const [, channels, height, width] = shape
  const out = new Float32Array(data.length)
  const at = (c: number, y: number, x: number): number =>
    data[(c * height + Math.min(height - 1, Math.max(0, y))) * width + Math.min(width - 1, Math.max(0, x))]
  for (let c = 0; c < channels; c++)
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++) {
        let sum = 0
        for (let dy = -3; dy <= 3; dy++) for (let dx = -3; dx <= 3; dx++) sum += at(c, y + dy, x + dx)
        out[(c * height + y) * width + x] = sum / 14
      }
  return tensor(shape, out)
}

function meanDifference(a: Tensor, b: Tensor): number {
  let sum = 0
  for (let i = 0; i < a.data.length; i++) sum += Math.abs(a.data[i] - b.data[i])
  return sum / a.data.length
}

/** The largest mean difference between two neighbouring rows of pixels. */
function largestRowJump({ shape, data }: Tensor): number {
  const [, channels, height, width] = shape
  let largest = 0
  for (let y = 1; y < height; y++) {
    let sum = 0
    for (let c = 0; c < channels; c++)
      for (let x = 0; x < width; x++) {
        const here = (c * height + y) * width + x
        sum += Math.abs(data[here] - data[here - width])
      }
    largest = Math.max(largest, sum / (channels * width))
  }
  return largest
}
