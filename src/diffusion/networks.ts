import type { ClipTextConfig } from '#engine/models/clip-text-config.ts'
import type { VaeConfig } from '#engine/models/vae-config.ts'
import type { UNetConfig } from '#engine/models/unet-config.ts'
import type { TextEncoder, TextEncoderOptions } from '#engine/networks/text-encoder.ts'
import type { UNet, UNetOptions } from '#engine/networks/unet.ts'
import type { VaeDecoder, VaeDecoderOptions } from '#engine/networks/vae-decoder.ts'
import type { VaeEncoder, VaeEncoderOptions } from '#engine/networks/vae-encoder.ts'
import type { CheckpointKind, SchedulerConfig } from '#engine/weights/checkpoint.ts'
import type { ClipTokenizer } from './prompt/tokenizer.ts'

/** What denoising needs to know of a model before any network is loaded: a base, an inpainting model or a refiner. */
export type DenoiserModel = {
  readonly kind: CheckpointKind
  /** Null for a refiner, which has the second text encoder alone. */
  readonly textConfig: ClipTextConfig | null
  readonly textConfig2: ClipTextConfig
  readonly unetConfig: UNetConfig
  /** Null together with `textConfig`. */
  readonly tokenizer: ClipTokenizer | null
  readonly tokenizer2: ClipTokenizer
  readonly scheduler: SchedulerConfig
  /** Whether a missing negative prompt is zeros (SDXL) or the embedding of "". */
  readonly forceZerosForEmptyPrompt: boolean
}

/** A whole model: what denoises first, the VAE, and the refiner where there is one. */
export type PipelineModel = DenoiserModel & {
  readonly vaeConfig: VaeConfig
  readonly refiner: DenoiserModel | null
}

/** Gives one denoiser its networks when it needs them; whoever implements it decides what stays in memory. */
export type DenoiserNetworks = {
  /** 2: conditional and unconditional prediction share one run, which pays on GPUs; 1: they take turns. */
  readonly guidanceBatch: 1 | 2
  textEncoder(which: 'textEncoder' | 'textEncoder2', options: TextEncoderOptions): Promise<TextEncoder>
  unet(options: UNetOptions): Promise<UNet>
}

/** Gives the pipeline all of its networks. */
export type Networks = DenoiserNetworks & {
  /** Null where the model has no refiner. */
  readonly refiner: DenoiserNetworks | null
  vaeEncoder(options: VaeEncoderOptions): Promise<VaeEncoder>
  vaeDecoder(options: VaeDecoderOptions): Promise<VaeDecoder>
  /** The longest edge in latents that can be encoded at once with the memory there is; null: the whole picture can. */
  encodeEdgeLimit(size: VaeEncoderOptions): Promise<number | null>
  /** The longest edge in latents that can be decoded at once with the memory there is; null: the whole picture can. */
  decodeEdgeLimit(size: VaeDecoderOptions): Promise<number | null>
}
