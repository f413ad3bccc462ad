import type { Tensor } from '#tensor/tensor.ts'
import type { Session } from '../backend.ts'
import { vaeDecoderGraph } from '../models/vae.ts'
import { vaeScaleFactor, type VaeConfig } from '../models/vae-config.ts'
import { createSession, type NetworkSource } from './network-source.ts'

/** Latent rows and columns. */
export type VaeDecoderOptions = { readonly height: number; readonly width: number }

/** A VAE's decoder that is loaded for one size. */
export class VaeDecoder implements AsyncDisposable {
  readonly #session: Session

  private constructor(session: Session) {
    this.#session = session
  }

  static async load(source: NetworkSource<VaeConfig>, { height, width }: VaeDecoderOptions): Promise<VaeDecoder> {
    const { backend, config, precision } = source
    const attention = backend.device === 'webgpu' ? 'plain' : 'fused'
    const graph = vaeDecoderGraph(config, { precision, attention, batch: 1, height, width })
    return new VaeDecoder(await createSession(source, graph, { weightsInPlace: false, keepActivations: false }))
  }

  /** Unscaled latents (1, latentChannels, h, w) → picture (1, 3, H, W), about −1..1. */
  async decode(latents: Tensor): Promise<Tensor> {
    const outputs = await this.#session.run({ latents })
    return outputs['image']
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#session.close()
  }
}

/** Bytes of activations that decoding takes at its peak, about: 3.7 of the widest full-size feature maps, as measured. */
export function vaeDecodeBytes(config: VaeConfig, { height, width }: VaeDecoderOptions): number {
  const pixels = height * width * vaeScaleFactor(config) ** 2
  const channels = config.blockOutChannels[1] ?? config.blockOutChannels[0]
  return pixels * channels * 4 * 3.7
}
