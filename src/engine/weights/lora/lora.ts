// What a LoRA file is, once opened: changes of the weights of up to three networks, under the paths that the modules
// have in diffusers. No bytes of tensors are held; they stay in the file.
import type { TensorSource } from '#tensor/safetensors.ts'
import type { LoraTarget } from './lora-networks.ts'

/** A tensor of a LoRA file, by the name it has there. */
export type LoraTensor = TensorSource & { readonly name: string }

/** One matrix, or the product of two. */
export type LokrFactor = LoraTensor | { readonly a: LoraTensor; readonly b: LoraTensor }

/**
 * How a weight is changed. `scale` is alpha / rank; the strength that a user asks for comes on top of it. O and I are
 * the weight's outputs and inputs, k its kernel.
 */
export type WeightChange =
  /** up [O, r] · down [r, I] (arXiv 2106.09685); of a convolution down is [r, I, k, k]. */
  | {
      readonly family: 'lora' | 'locon'
      readonly rank: number
      readonly scale: number
      readonly down: LoraTensor
      readonly up: LoraTensor
    }
  /** LoCon with a core: up [O, r], mid [r, r, k, k], down [r, I] (arXiv 2309.14859). */
  | {
      readonly family: 'tucker'
      readonly rank: number
      readonly scale: number
      readonly down: LoraTensor
      readonly mid: LoraTensor
      readonly up: LoraTensor
    }
  /** LoHa: (w1a · w1b) ∘ (w2a · w2b) (arXiv 2108.06098); with cores t1 and t2 [r, r, k, k] w1a and w2a are [r, O]. */
  | {
      readonly family: 'loha'
      readonly rank: number
      readonly scale: number
      readonly w1a: LoraTensor
      readonly w1b: LoraTensor
      readonly w2a: LoraTensor
      readonly w2b: LoraTensor
      readonly cores: { readonly t1: LoraTensor; readonly t2: LoraTensor } | null
    }
  /** LoKr: w1 ⊗ w2 (arXiv 2212.10650); `rank` is null where both are whole. */
  | {
      readonly family: 'lokr'
      readonly rank: number | null
      readonly scale: number
      readonly w1: LokrFactor
      readonly w2: LokrFactor
      readonly t2: LoraTensor | null
    }
  /** The whole difference, of a weight or of a norm's scale. */
  | { readonly family: 'full' | 'norm'; readonly diff: LoraTensor }
  /** (IA)³ (arXiv 2205.05638): a factor an output, or an input, that is added to 1. */
  | { readonly family: 'ia3'; readonly factor: LoraTensor; readonly onInput: boolean }

/** DoRA (arXiv 2402.09353): the lengths that the rows (`out`) or columns (`in`) of the changed weight are given. */
export type DoraMagnitude = { readonly lengths: LoraTensor; readonly axis: 'out' | 'in' }

/** Everything that a file does to one module. */
export type LoraModule = {
  readonly target: LoraTarget
  /** Null where only the bias is changed. */
  readonly change: WeightChange | null
  readonly dora: DoraMagnitude | null
  /** Added to the module's bias. */
  readonly biasDiff: LoraTensor | null
}

/** What a user may want to know of a LoRA. Words come from the file's metadata: they are a stranger's, and short. */
export type LoraReport = {
  /** Family → modules of it; `bias` counts modules whose bias alone is changed. */
  readonly families: Readonly<Partial<Record<WeightChange['family'] | 'bias', number>>>
  /** Modules with DoRA magnitudes. */
  readonly doraModules: number
  /** Null where no family has a rank. */
  readonly rank: { readonly min: number; readonly max: number } | null
  /** Modules changed in each network. */
  readonly modules: { readonly unet: number; readonly textEncoder: number; readonly textEncoder2: number }
  readonly tensorsUsed: number
  readonly tensorsPresent: number
  readonly triggerWords: readonly string[]
  /** What the metadata call the model that it was trained on. */
  readonly baseModel: string | null
  /** A picture in the metadata. */
  readonly thumbnail: { readonly mediaType: string; readonly bytes: Uint8Array } | null
}

/** A LoRA file that fits its networks whole. */
export type Lora = {
  readonly path: string
  readonly modules: readonly LoraModule[]
  readonly report: LoraReport
}
