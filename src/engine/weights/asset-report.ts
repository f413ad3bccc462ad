// What an upload turned out to be, as plain data for people and programs.
import type { LoraReport } from './lora/lora.ts'

/** What an uploaded file of weights can be. */
export const assetKinds = ['checkpoint', 'controlnet', 'lora', 'textual_inversion', 'vae'] as const
export type AssetKind = (typeof assetKinds)[number]

/** The number format of the weights; `mixed` where there are several. */
export type AssetDataType = 'fp32' | 'fp16' | 'bf16' | 'mixed'

/** What is known of an upload that can be used: it was read by content, whatever its name says. */
export type AssetReport = {
  readonly kind: AssetKind
  /** What the upload was; a `pt` was converted. */
  readonly fileFormat: 'safetensors' | 'pt'
  /** Whether `output` holds the same weights as safetensors, to be kept in place of the upload. */
  readonly converted: boolean
  /** In words, such as "Stable Diffusion XL (inpainting)". */
  readonly architecture: string
  readonly dataType: AssetDataType
  readonly tensors: number
  readonly parameters: number
  /** What the file's metadata proposes, the likeliest first. */
  readonly triggerWords: readonly string[]
  /** A picture of what it does, as a data URL, where the metadata have one. */
  readonly thumbnail: string | null
  /** Things that its owner should know, such as a VAE that seems to be Stable Diffusion 1.5's. */
  readonly warnings: readonly string[]
  readonly details: AssetDetails
}

/** What is told of one kind of asset alone. */
export type AssetDetails =
  | {
      readonly kind: 'checkpoint'
      readonly model: 'base' | 'inpainting'
      readonly predictionType: string
      readonly vaeIncluded: boolean
    }
  | { readonly kind: 'controlnet'; readonly layout: 'diffusers' | 'ldm' | 'union' | 'control-lora' }
  | ({ readonly kind: 'lora' } & Omit<LoraReport, 'thumbnail' | 'triggerWords'>)
  | {
      readonly kind: 'textual_inversion'
      /** Places of a prompt that it takes. */
      readonly vectors: number
    }
  | { readonly kind: 'vae'; readonly latentChannels: number; readonly scaleFactor: number }
