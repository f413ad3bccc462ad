// The scaling that training gave the latents: by statistics of each channel where the VAE has them, else by two numbers.
import type { VaeConfig } from '#engine/models/vae-config.ts'
import { tensor, type Tensor } from '#tensor/tensor.ts'

const { fround } = Math

/** The VAE's own latents (1, C, h, w) → those that the UNet works on. */
export function scaleLatents(config: VaeConfig, latents: Tensor): Tensor {
  const scalingFactor = fround(config.scalingFactor)
  return mapChannels(config, latents, (value, shift, deviation) => {
    return fround(fround(value - shift) * scalingFactor) / deviation
  })
}

/** Latents (1, C, h, w) as the UNet works on them → the VAE's own. */
export function unscaleLatents(config: VaeConfig, latents: Tensor): Tensor {
  const { scalingFactor } = config
  return mapChannels(config, latents, (value, shift, deviation) => {
    return fround(fround(value * deviation) / scalingFactor) + shift
  })
}

function mapChannels(
  { latentsMean, latentsStd, shiftFactor }: VaeConfig,
  latents: Tensor,
  map: (value: number, shift: number, deviation: number) => number,
): Tensor {
  const [, channels] = latents.shape as [number, number, number, number]
  const size = latents.data.length / channels
  const data = new Float32Array(latents.data.length)
  for (let channel = 0; channel < channels; channel++) {
    const deviation = latentsStd?.[channel] ?? 1
    const shift = latentsMean?.[channel] ?? shiftFactor ?? 0
    for (let i = channel * size; i < (channel + 1) * size; i++) data[i] = map(latents.data[i], shift, deviation)
  }
  return tensor(latents.shape, data)
}
