import type { ClipTextConfig } from '#engine/models/clip-text-config.ts'
import type { VaeConfig } from '#engine/models/vae-config.ts'
import type { UNetConfig } from '#engine/models/unet-config.ts'
import type { TextEncoder, TextEncoderOptions } from '#engine/networks/text-encoder.ts'
import type { UNet, UNetOptions } from '#engine/networks/unet.ts'
import type { VaeDecoder, VaeDecoderOptions } from '#engine/networks/vae-decoder.ts'
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import type { ClipTokenizer } from './prompt/tokenizer.ts'

/** What the pipeline knows of a model before any network is loaded. */
export type PipelineModel = {
  readonly textConfig: ClipTextConfig
  readonly textConfig2: ClipTextConfig
  readonly unetConfig: UNetConfig
  readonly vaeConfig: VaeConfig
  readonly tokenizer: ClipTokenizer
  readonly tokenizer2: ClipTokenizer
  readonly scheduler: SchedulerConfig
  /** Whether a missing negative prompt is zeros (SDXL) or the embedding of "". */
  readonly forceZerosForEmptyPrompt: boolean
}

/** Gives the pipeline its networks when it needs them; whoever implements it decides what stays in memory. */
export type Networks = {
  /** 2: conditional and unconditional prediction share one run, which pays on GPUs; 1: they take turns. */
  readonly guidanceBatch: 1 | 2
  textEncoder(which: 'textEncoder' | 'textEncoder2', options: TextEncoderOptions): Promise<TextEncoder>
  unet(options: UNetOptions): Promise<UNet>
  vaeDecoder(options: VaeDecoderOptions): Promise<VaeDecoder>
  /** The longest edge in latents that can be decoded at once with the memory there is; null: the whole picture can. */
  decodeEdgeLimit(size: VaeDecoderOptions): Promise<number | null>
}
