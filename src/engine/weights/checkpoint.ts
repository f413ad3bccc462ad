// What a model on disk is, once opened: up to four components with resolved configs and weights under diffusers'
// state-dict keys, whatever layout the files had. Nothing here holds weight bytes; they stay in their files.
import type { ClipTextConfig } from '../models/clip-text-config.ts'
import type { UNetConfig } from '../models/unet-config.ts'
import type { VaeConfig } from '../models/vae-config.ts'

/** Number formats of stored weights. */
export type WeightDType = 'F32' | 'F16' | 'BF16'

/** One tensor where it lies: a byte range of a file, or bytes in memory when the file's order is not ours. */
export type StoredTensor = {
  readonly dtype: WeightDType
  readonly shape: readonly number[]
  readonly source:
    | { readonly file: string; readonly offset: number; readonly length: number }
    | { readonly bytes: Uint8Array }
}

/** diffusers' state-dict key → where the tensor lies. */
export type Weights = ReadonlyMap<string, StoredTensor>

/** A tensor as a graph reads it: of a checkpoint, or rounded to 8-bit integers. */
export type GraphTensor = StoredTensor | (Omit<StoredTensor, 'dtype'> & { readonly dtype: 'I8' })

/** Key → where the tensor lies, for a graph. */
export type GraphWeights = ReadonlyMap<string, GraphTensor>

export const componentNames = ['textEncoder', 'textEncoder2', 'unet', 'vae'] as const
export type ComponentName = (typeof componentNames)[number]

/** One network: its resolved config and its weights. */
export type Component<Config> = {
  readonly name: ComponentName
  readonly config: Config
  readonly weights: Weights
}

/** Byte-pair vocabulary of a CLIP tokenizer and its special tokens, as read from the model's files. */
export type TokenizerData = {
  readonly vocab: ReadonlyMap<string, number>
  /** Merge rules: two symbols of `vocab` with a space between them → priority, 0 first; what they make is in `vocab` too. */
  readonly mergeRanks: ReadonlyMap<string, number>
  readonly bosTokenId: number
  readonly eosTokenId: number
  /** EOS for encoder 1, 0 ("!") for encoder 2 of SDXL. */
  readonly padTokenId: number
  readonly modelMaxLength: number
}

/** Options of diffusers' scheduler_config.json that change numbers; a single file gets SDXL's. */
export type SchedulerConfig = {
  readonly numTrainTimesteps: number
  readonly betaStart: number
  readonly betaEnd: number
  readonly betaSchedule: 'linear' | 'scaled_linear'
  readonly predictionType: 'epsilon' | 'v_prediction' | 'sample'
  readonly timestepSpacing: 'leading' | 'trailing' | 'linspace'
  readonly stepsOffset: number
  readonly setAlphaToOne: boolean
  readonly rescaleBetasZeroSnr: boolean
  /** Whether samplers that do not say so themselves spread their noise levels by Karras' rule. */
  readonly useKarrasSigmas: boolean
  /** Where a run ends: without noise, or at the smallest noise level of the training. */
  readonly finalSigmasType: 'zero' | 'sigma_min'
  /** Predicted pictures are clipped to ± this number (in latents); null: they are not. */
  readonly clipSampleRange: number | null
}

export type CheckpointKind = 'base' | 'refiner' | 'inpainting'

/** A whole model on disk. A refiner has no textEncoder; `vae` is null when the file carries none. */
export type Checkpoint = {
  readonly path: string
  readonly layout: 'single-file' | 'diffusers'
  readonly kind: CheckpointKind
  readonly textEncoder: Component<ClipTextConfig> | null
  readonly textEncoder2: Component<ClipTextConfig>
  readonly unet: Component<UNetConfig>
  readonly vae: Component<VaeConfig> | null
  readonly tokenizer: TokenizerData | null
  readonly tokenizer2: TokenizerData
  readonly scheduler: SchedulerConfig
  readonly forceZerosForEmptyPrompt: boolean
}
