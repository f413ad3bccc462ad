import type { Tensor } from '#tensor/tensor.ts'
import type { Session } from '../backend.ts'
import { vaeEncoderGraph } from '../models/vae.ts'
import { vaeScaleFactor, type VaeConfig } from '../models/vae-config.ts'
import { createSession, type NetworkSource } from './network-source.ts'
import { silentResiduals } from './silent-residuals.ts'

/** Latent rows and columns. */
export type VaeEncoderOptions = { readonly height: number; readonly width: number }

/** A VAE's encoder that is loaded for one size. */
export class VaeEncoder implements AsyncDisposable {
  readonly #session: Session

  private constructor(session: Session) {
    this.#session = session
  }

  static async load(source: NetworkSource<VaeConfig>, { height, width }: VaeEncoderOptions): Promise<VaeEncoder> {
    const { backend, config, precision } = source
    const attention = backend.device === 'webgpu' ? 'plain' : 'fused'
    const silent = await silentResiduals(source.weights)
    const graph = vaeEncoderGraph(config, { precision, attention, batch: 1, silent, height, width })
    return new VaeEncoder(await createSession(source, [graph], { weightsInPlace: false, keepActivations: false }))
  }

  /** Picture (1, 3, H, W) in −1..1 → means and log variances of unscaled latents, (1, 2·latentChannels, h, w). */
  async encode(image: Tensor): Promise<Tensor> {
    const outputs = await this.#session.run({ image })
    return outputs['moments']
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#session.close()
  }
}

/** Bytes of activations that encoding takes at its peak, about: 4 of the full-size feature maps, as measured. */
export function vaeEncodeBytes(config: VaeConfig, { height, width }: VaeEncoderOptions): number {
  return height * width * vaeScaleFactor(config) ** 2 * config.blockOutChannels[0] * 4 * 4
}
