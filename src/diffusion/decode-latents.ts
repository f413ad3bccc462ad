// Latents → picture. Where the decoder's memory does not allow the whole picture at once, it is decoded in tiles.
import { vaeScaleFactor, type VaeConfig } from '#engine/models/vae-config.ts'
import type { Tensor } from '#tensor/tensor.ts'
import { checkFinite } from './check-finite.ts'
import { unscaleLatents } from './latent-scale.ts'
import type { Networks } from './networks.ts'
import { runInTiles } from './tiles.ts'

/** Latents (1, C, h, w) as the scheduler leaves them → picture (1, 3, H, W), about −1..1. */
export async function decodeLatents(
  networks: Pick<Networks, 'vaeDecoder' | 'decodeEdgeLimit'>,
  config: VaeConfig,
  latents: Tensor,
): Promise<Tensor> {
  const [, , height, width] = latents.shape as [number, number, number, number]
  const whole = { height, width }
  const unscaled = unscaleLatents(config, latents)
  const limit = await networks.decodeEdgeLimit(whole)
  const tile = { height: Math.min(height, limit ?? height), width: Math.min(width, limit ?? width) }
  const decoder = await networks.vaeDecoder(tile)
  const tiling = { whole, tile, inputFactor: 1, outputFactor: vaeScaleFactor(config) }
  const image =
    tile.height === height && tile.width === width
      ? await decoder.decode(unscaled)
      : await runInTiles(unscaled, tiling, (part) => decoder.decode(part))
  checkFinite(image, 'the decoded picture')
  return image
}
