import type { SamplerName } from '#diffusion/samplers.ts'
import type { StylePresetName } from '#diffusion/style-presets.ts'

/**
 * What a client asks of a picture endpoint: parsed, in range, defaults applied, but nothing looked up yet. Pictures are
 * their encoded bytes. `resolveGenerate` turns it into a GenerateTask.
 */
export type GenerateOrder = {
  readonly prompt: string
  readonly prompt2: string | null
  readonly negativePrompt: string | null
  readonly negativePrompt2: string | null
  /** Asset references; null: the server's base model and its parts. */
  readonly checkpoint: string | null
  readonly loras: Readonly<Record<string, number>>
  /** Reference → trigger word. */
  readonly textualInversions: Readonly<Record<string, string>>
  readonly vae: string | null
  readonly sampler: SamplerName
  readonly width: number
  readonly height: number
  readonly guidanceScale: number
  readonly numInferenceSteps: number
  /** One entry a picture; null: random. */
  readonly seeds: readonly (number | null)[]
  readonly initImage: Uint8Array | null
  readonly strength: number
  readonly maskImage: Uint8Array | null
  readonly outpainting: boolean
  readonly inpaintFullRes: boolean
  readonly inpaintFullResPadding: number
  readonly useRefiner: boolean
  /** 0..1, wire high_noise_frac. */
  readonly denoisingEnd: number
  readonly clipSkip: number | null
  readonly stylePreset: StylePresetName | null
  readonly imageEncoding: 'png' | 'jpeg'
  readonly logPrompt: boolean
  readonly enableSafety: boolean
}
