// Picture → distribution of latents (arXiv 1312.6114, section 2.3), from which each picture of a batch draws its own.
import { vaeScaleFactor, type VaeConfig } from '#engine/models/vae-config.ts'
import type { TorchGenerator } from '#tensor/random.ts'
import { tensor, type Tensor } from '#tensor/tensor.ts'
import { checkFinite } from './check-finite.ts'
import { scaleLatents } from './latent-scale.ts'
import type { Networks } from './networks.ts'
import { runInTiles } from './tiles.ts'

/** Means and deviations of unscaled latents, each (1, C, h, w). */
export type LatentDistribution = { readonly mean: Tensor; readonly deviation: Tensor }

const { fround } = Math

/** Picture (1, 3, H, W) in −1..1 → what its latents may be. In tiles where memory is short. */
export async function encodePicture(
  networks: Pick<Networks, 'vaeEncoder' | 'encodeEdgeLimit'>,
  config: VaeConfig,
  image: Tensor,
): Promise<LatentDistribution> {
  const factor = vaeScaleFactor(config)
  const [height, width] = [image.shape[2] / factor, image.shape[3] / factor]
  const whole = { height, width }
  const limit = await networks.encodeEdgeLimit(whole)
  const tile = { height: Math.min(height, limit ?? height), width: Math.min(width, limit ?? width) }
  const encoder = await networks.vaeEncoder(tile)
  const tiling = { whole, tile, inputFactor: factor, outputFactor: 1 }
  const moments =
    tile.height === height && tile.width === width
      ? await encoder.encode(image)
      : await runInTiles(image, tiling, (part) => encoder.encode(part))
  checkFinite(moments, 'the encoded picture')

  const shape = [1, config.latentChannels, height, width]
  const half = moments.data.length / 2
  const deviation = moments.data.slice(half)
  // The limits are the reference's.
  for (let i = 0; i < half; i++) deviation[i] = Math.exp(fround(0.5 * Math.min(Math.max(deviation[i], -30), 20)))
  return { mean: tensor(shape, moments.data.slice(0, half)), deviation: tensor(shape, deviation) }
}

/** One draw of the latents from a picture's own stream, scaled for the UNet. */
export function drawLatents(
  config: VaeConfig,
  { mean, deviation }: LatentDistribution,
  generator: TorchGenerator,
): Tensor {
  const latents = generator.randn(mean.shape)
  for (let i = 0; i < latents.data.length; i++)
    latents.data[i] = mean.data[i] + fround(deviation.data[i] * latents.data[i])
  return scaleLatents(config, latents)
}
