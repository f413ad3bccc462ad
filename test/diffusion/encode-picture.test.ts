import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { drawLatents, encodePicture } from '#diffusion/encode-picture.ts'
import { scaleLatents } from '#diffusion/latent-scale.ts'
import { fitPreview, previewEdge, projectLatents } from '#diffusion/preview.ts'
import { onnxruntimeBackend } from '#engine/backends/onnxruntime.ts'
import { VaeEncoder, type VaeEncoderOptions } from '#engine/networks/vae-encoder.ts'
import { openCheckpoint } from '#engine/weights/open-checkpoint.ts'
import { toPixels } from '#image/codec.ts'
import { decodePicture } from '#image/decode-picture.ts'
import { toPictureTensor } from '#image/picture-tensor.ts'
import { resizeLanczos } from '#image/resize.ts'
import { TorchGenerator } from '#tensor/random.ts'
import { tensor, type Tensor } from '#tensor/tensor.ts'
import { relativeError, weightsInMemory } from '../support/golden.ts'
import { modesFolder } from '../support/mode-case.ts'

const { config, weights } = (await openCheckpoint(join(import.meta.dirname, '../golden/models/pocket'))).vae!
const backend = onnxruntimeBackend({ device: 'cpu', threads: 2, externalDataRoot: '/' })
const source = {
  backend,
  config,
  weights: await weightsInMemory(weights),
  precision: 'fp32',
  arithmetic: 'graph',
} as const
const bytes = await readFile(join(modesFolder, 'inputs/picture-1024x1024.png'))
const picture = resizeLanczos(await decodePicture(bytes, 'picture'), 640, 768)
const image = toPictureTensor(picture)

function networks(limit: number | null, sizes: string[] = []) {
  return {
    vaeEncoder: (options: VaeEncoderOptions) => {
      sizes.push(`${options.height}x${options.width}`)
      return VaeEncoder.load(source, options)
    },
    encodeEdgeLimit: async () => limit,
  }
}

describe('a picture encoded in tiles', () => {
  test('is the whole one but for what a tile cannot see', async () => {
    const sizes: string[] = []
    const whole = await encodePicture(networks(null, sizes), config, image)
    const tiled = await encodePicture(networks(16, sizes), config, image)
    expect(sizes).toEqual(['24x20', '16x16'])
    expect(whole.mean.shape).toEqual([1, config.latentChannels, 24, 20])
    expect(relativeError(tiled.mean, whole.mean)).toBeLessThan(0.1)
    expect(relativeError(tiled.mean, whole.mean)).toBeGreaterThan(0)
    expect(relativeError(tiled.deviation, whole.deviation)).toBeLessThan(0.1)
  })
})

test('latents are drawn as mean + deviation × noise, from the stream, and scaled', () => {
  const shape = [1, config.latentChannels, 2, 2]
  const of = (value: number): Tensor => tensor(shape, new Float32Array(4 * config.latentChannels).fill(value))
  const halved = { ...config, scalingFactor: 0.5 }
  const drawn = drawLatents(halved, { mean: of(3), deviation: of(2) }, new TorchGenerator(9))
  const noise = new TorchGenerator(9).randn(shape)
  drawn.data.forEach((value, i) => expect(value).toBeCloseTo((3 + 2 * noise.data[i]) / 2, 5))
})

describe('the preview of latents', () => {
  test('has the colours of the picture, in patches for a VAE of large latents', async () => {
    const projection = await fitPreview(networks(null), config)
    expect([projection.patch, projection.rows.length]).toEqual([4, 48])
    const { mean } = await encodePicture(networks(null), config, image)
    const shown = projectLatents(projection, scaleLatents(config, mean))
    expect(shown.shape).toEqual([3, 96, 80])
    const [a, b] = [toPixels(shown), resizeLanczos(picture, 80, 96)]
    let difference = 0
    for (let i = 0; i < b.data.length; i++) difference += Math.abs(a.data[i] - b.data[i]) / b.data.length
    expect(difference).toBeLessThan(10)
  })

  test('is never longer than its limit', async () => {
    const projection = await fitPreview(networks(null), config)
    for (const [height, width] of [
      [128, 20],
      [30, 100],
      [64, 64],
    ]) {
      const latents = new TorchGenerator(1).randn([1, config.latentChannels, height, width])
      const [, rows, columns] = projectLatents(projection, latents).shape
      expect(Math.max(rows, columns)).toBeLessThanOrEqual(previewEdge)
      expect(Math.max(rows, columns)).toBeGreaterThan(previewEdge / 2)
      expect(rows / columns).toBeCloseTo(height / width, 1)
    }
  })
})
