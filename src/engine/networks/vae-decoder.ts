import type { Tensor } from '#tensor/tensor.ts'
import type { Session } from '../backend.ts'
import { vaeDecoderGraph } from '../models/vae.ts'
import { vaeScaleFactor, type VaeConfig } from '../models/vae-config.ts'
import { createSession, type NetworkSource } from './network-source.ts'
import { silentResiduals } from './silent-residuals.ts'
import { StripDecoder, stripDecodeBytes } from './strip-decoder.ts'

/** Latent rows and columns. */
export type VaeDecoderOptions = { readonly height: number; readonly width: number }

/** Bytes of activations above which a picture is decoded in strips: a little slower, and a fraction of the memory. */
const wholeUpToBytes = 1 << 30

/** A VAE's decoder that is loaded for one size. */
export class VaeDecoder implements AsyncDisposable {
  readonly #decoder: Session | StripDecoder

  private constructor(decoder: Session | StripDecoder) {
    this.#decoder = decoder
  }

  static async load(source: NetworkSource<VaeConfig>, options: VaeDecoderOptions): Promise<VaeDecoder> {
    const { backend, config, precision } = source
    if (decodesInStrips(config, options)) return new VaeDecoder(await StripDecoder.load(source, options))
    const attention = backend.device === 'webgpu' ? 'plain' : 'fused'
    const silent = await silentResiduals(source.weights)
    const graph = vaeDecoderGraph(config, { precision, attention, batch: 1, silent, ...options })
    return new VaeDecoder(await createSession(source, [graph], { weightsInPlace: false, keepActivations: false }))
  }

  /** Unscaled latents (1, latentChannels, h, w) → picture (1, 3, H, W), about −1..1. */
  async decode(latents: Tensor): Promise<Tensor> {
    if (this.#decoder instanceof StripDecoder) return await this.#decoder.decode(latents)
    const outputs = await this.#decoder.run({ latents })
    return outputs['image']
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#decoder[Symbol.asyncDispose]()
  }
}

/** Bytes of activations that decoding takes at its peak, about. */
export function vaeDecodeBytes(config: VaeConfig, size: VaeDecoderOptions): number {
  return decodesInStrips(config, size) ? stripDecodeBytes(config, size) : wholeDecodeBytes(config, size)
}

function decodesInStrips(config: VaeConfig, size: VaeDecoderOptions): boolean {
  return config.blockOutChannels.length > 1 && wholeDecodeBytes(config, size) > wholeUpToBytes
}

/** 3.7 of the widest full-size feature maps, as measured. */
function wholeDecodeBytes(config: VaeConfig, { height, width }: VaeDecoderOptions): number {
  const pixels = height * width * vaeScaleFactor(config) ** 2
  const channels = config.blockOutChannels[1] ?? config.blockOutChannels[0]
  return pixels * channels * 4 * 3.7
}
