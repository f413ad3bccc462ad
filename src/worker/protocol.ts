// What crosses the process boundary: plain data, copied by structured clone. The parent sends requests, the engine
// process answers with any number of events and then exactly one result or error a request.
import type { SamplerName } from '#diffusion/samplers.ts'
import type { BackendName, Device, Precision } from '#engine/backend.ts'
import type { ProviderProbe } from '#engine/backends/onnxruntime.ts'
import type { AssetKind, AssetReport } from '#engine/weights/asset-report.ts'
import type { ComponentName } from '#engine/weights/checkpoint.ts'
import type { InspectReport } from '#engine/weights/inspect.ts'
import type { ErrorCode, ErrorDetail } from '../errors.ts'

export type { AssetDataType, AssetDetails, AssetKind, AssetReport } from '#engine/weights/asset-report.ts'

/** SHA-256 of a file's bytes, in lower-case hex. */
export type ContentHash = string

/** What a picture starts from. Pictures are named by the hash of their encoded bytes; a mask is white where to repaint. */
export type TaskStart =
  | { readonly mode: 'textToImage' }
  | { readonly mode: 'imageToImage'; readonly image: ContentHash; readonly strength: number }
  | {
      readonly mode: 'inpaint'
      readonly image: ContentHash
      readonly mask: ContentHash
      readonly strength: number
      /** Pixels of context round the mask's bounding box, which alone is painted; null paints the whole frame. */
      readonly fullResPadding: number | null
    }
  | {
      readonly mode: 'outpaint'
      readonly image: ContentHash
      readonly mask: ContentHash
      readonly strength: number
    }

/** A LoRA of a task; its strength may be negative or above 1. */
export type TaskLora = { readonly asset: ContentHash; readonly scale: number }

/** Vectors of a task that stand for a word of its prompts. */
export type TaskInversion = { readonly asset: ContentHash; readonly trigger: string }

/** One fully resolved order for pictures: every default applied, every seed chosen. */
export type GenerateTask = {
  readonly prompt: string
  /** For the second text encoder; null copies `prompt`. */
  readonly prompt2: string | null
  /** Null gives zero embeddings where the model asks for them; "" is encoded. */
  readonly negativePrompt: string | null
  readonly negativePrompt2: string | null
  /** Pixels. */
  readonly width: number
  readonly height: number
  readonly numInferenceSteps: number
  readonly guidanceScale: number
  readonly sampler: SamplerName
  /** One a picture. */
  readonly seeds: readonly number[]
  readonly clipSkip: number | null
  readonly start: TaskStart
  /** The file of the model; null: the one that the deployment serves. */
  readonly checkpoint: ContentHash | null
  /** The file of another VAE than the model's own; null: its own. */
  readonly vae: ContentHash | null
  readonly loras: readonly TaskLora[]
  readonly textualInversions: readonly TaskInversion[]
  /** Null: the base model does all steps. `denoisingEnd` is its part of the schedule, 0..1; the refiner does the rest. */
  readonly refiner: { readonly denoisingEnd: number } | null
  /** Whether progress carries an approximate picture after each step. */
  readonly previews: boolean
  readonly imageEncoding: 'png' | 'jpeg'
}

/** Where this machine keeps the files that a task needs. */
export type TaskFiles = {
  readonly checkpoint: string
  /** Null where the task has no refiner. */
  readonly refiner: string | null
  /** Encoded pictures that `start` names. */
  readonly pictures: Readonly<Record<ContentHash, string>>
  /** Files of LoRAs, inversions and VAEs that the task names. */
  readonly assets: Readonly<Record<ContentHash, string>>
  /**
   * The model that the deployment serves, where `checkpoint` is another one. An uploaded single file has no tokenizer
   * beside it: with another vocabulary than CLIP's it takes this model's, if that has as many tokens.
   */
  readonly servedModel?: string | undefined
}

/** An upload to look into. */
export type AssetInspection = {
  /** The bytes as they were uploaded. */
  readonly path: string
  /** Where the weights go as safetensors when they were uploaded as something else; nothing may lie there yet. */
  readonly output: string
  /** What its owner says it is. */
  readonly kind: AssetKind
  /** The model that the deployment serves: an upload has to fit it, or the standard Stable Diffusion XL. */
  readonly checkpoint: string
}

/** Fixed for the life of an engine process. */
export type EngineSettings = {
  readonly device: Device
  /** `auto`: the backend that the precision runs fastest on; for fp32 the one that loads quickest. */
  readonly backend: BackendName | 'auto'
  /** `auto`: the fastest whose pictures cannot be told from those of fp32 on this machine. */
  readonly precision: Precision | 'auto'
  /** Folders in which OpenVINO's libraries may lie, the first one first; absent: none is looked for. */
  readonly openvinoFolders?: readonly string[] | undefined
  /** Threads inside one operator. */
  readonly threads: number
  /** Prepared weights live here; made when missing. */
  readonly cacheDir: string
  readonly cacheLimitBytes: number
  /** A folder on the same file system as `cacheDir` for half-written files; the parent removes it when the process ends. */
  readonly scratchDir: string
  /** The process is for one task: networks that it does not come back to are closed at once, to give their memory to the next. */
  readonly singleTask?: boolean | undefined
  /** Private memory that the process should stay within; without one what the machine has is the limit. */
  readonly memoryLimitBytes?: number | undefined
}

/** What the parent asks; `id` comes back in every event of the answer. `start` is the first request, once. */
export type EngineRequest =
  | { readonly type: 'start'; readonly id: number; readonly settings: EngineSettings }
  | { readonly type: 'generate'; readonly id: number; readonly task: GenerateTask; readonly files: TaskFiles }
  | { readonly type: 'inspect'; readonly id: number; readonly path: string }
  | { readonly type: 'inspectAsset'; readonly id: number; readonly asset: AssetInspection }
  | { readonly type: 'choose'; readonly id: number }
  | { readonly type: 'quantize'; readonly id: number; readonly path: string }
  | { readonly type: 'probe'; readonly id: number }
  | { readonly type: 'close'; readonly id: number }

/** Everything that the parent sends; `cancel` names the task that is to stop, and has no answer of its own. */
export type EngineMessage = EngineRequest | { readonly type: 'cancel'; readonly id: number }

/** What the engine is doing, for a progress bar. */
export type Progress =
  | {
      readonly phase: 'hash' | 'prepare'
      readonly component: ComponentName
      readonly doneBytes: number
      readonly totalBytes: number
    }
  | { readonly phase: 'load'; readonly component: ComponentName }
  /** The ranges of a network's values are found out, once; `step` evaluations or layers are done. */
  | { readonly phase: 'calibrate'; readonly component: ComponentName; readonly step: number; readonly of: number }
  | { readonly phase: 'encode' }
  /** The picture to start from goes through the VAE. */
  | { readonly phase: 'encodeStart' }
  | {
      readonly phase: 'denoise'
      readonly image: number
      /**
       * Evaluations of the network that are done, by base model and refiner together. With a refiner the base model
       * works on all pictures before the refiner goes on with the first, beginning at the step where that was left.
       */
      readonly step: number
      readonly of: number
      /**
       * A small JPEG of what the latents look like, where the task asked for previews; some steps of a quick model go
       * without, so that previews take at most a fiftieth of the time.
       */
      readonly preview?: Uint8Array
    }
  | { readonly phase: 'decode'; readonly image: number }

/** Where the time of a task went, in milliseconds. */
export type Timings = {
  readonly loadMs: number
  readonly encodePromptMs: number
  /** The picture to start from: decoding, resizing and the VAE. */
  readonly encodeStartMs: number
  /** One entry a step, over all pictures in order. */
  readonly stepMs: readonly number[]
  readonly decodeMs: number
  readonly encodeImageMs: number
  readonly totalMs: number
}

/** What an engine process computes with, `auto` resolved. */
export type EngineChoice = { readonly backend: BackendName; readonly precision: Precision }

export type GenerateResult = EngineChoice & {
  readonly modelHash: string
  /** Null where the task has no refiner. */
  readonly refinerHash: string | null
  readonly timings: Timings
  /** Things that the user should know, such as a picture of one colour. */
  readonly warnings: readonly string[]
}

/** The answer to `inspect`: what the file is and, where it is a usable model, the hashes of its weights. */
export type InspectResult = {
  readonly report: InspectReport
  /** Independent of the files' layout; null when the file cannot be used as a model. */
  readonly modelHash: string | null
  readonly componentHashes: Readonly<Partial<Record<ComponentName, string>>>
  /** The error that opening the file as a model gives, when it gives one. */
  readonly unusable: { readonly code: ErrorCode; readonly message: string } | null
}

/** The answer to `quantize`: what int8 does to a model's UNet. */
export type QuantizeResult = {
  readonly backend: BackendName
  /** Content hash of the UNet. */
  readonly network: ContentHash
  /** Bytes of its weights in the model, and rounded. */
  readonly sourceBytes: number
  readonly roundedBytes: number
  /** Largest rounded weight on this machine. */
  readonly weightLimit: number
  /** Every layer that could be rounded; how and at which relative error of its output where that was measured. */
  readonly layers: readonly {
    readonly path: string
    readonly int8: boolean
    readonly method?: string
    readonly error?: number
  }[]
  /** Relative error of the network's output at some noise levels; null where no ranges had to be measured. */
  readonly outputErrors: readonly { readonly timestep: number; readonly error: number }[] | null
  readonly warnings: readonly string[]
}

/** OpenVINO as an engine process finds it; `reason` says why it does not work. */
export type OpenvinoProbe =
  | { readonly works: true; readonly version: string; readonly folder: string; readonly formats: readonly string[] }
  | { readonly works: false; readonly reason: string }

/** The answer to `probe`. */
export type ProbeResult = {
  readonly onnxruntimeVersion: string
  readonly providers: readonly ProviderProbe[]
  readonly openvino: OpenvinoProbe
  /** What the settings choose and why, or why they cannot be had. */
  readonly choice: (EngineChoice & { readonly reason: string }) | { readonly refusal: string }
}

/** Request type → what its `result` event carries. */
export type EngineResults = {
  readonly start: null
  readonly generate: GenerateResult
  readonly inspect: InspectResult
  readonly inspectAsset: AssetReport
  readonly choose: EngineChoice
  readonly quantize: QuantizeResult
  readonly probe: ProbeResult
  readonly close: null
}

export type EngineEvent =
  | { readonly type: 'progress'; readonly id: number; readonly progress: Progress }
  | {
      readonly type: 'image'
      readonly id: number
      readonly index: number
      readonly seed: number
      readonly bytes: Uint8Array
    }
  /** From now on the task stops when it is asked to. */
  | { readonly type: 'interruptible'; readonly id: number }
  | { readonly type: 'result'; readonly id: number; readonly result: unknown }
  | {
      readonly type: 'error'
      readonly id: number
      readonly error: ErrorDetail
    }
