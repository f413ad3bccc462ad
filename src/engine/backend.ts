// The seam between the pipeline and whatever computes: a backend turns ONNX bytes into a session, a session turns
// named tensors into named tensors. onnxruntime is always there, OpenVINO where its libraries are found.
import type { Tensor } from '#tensor/tensor.ts'

/** The libraries that run graphs. */
export const backendNames = ['onnxruntime', 'openvino'] as const
export type BackendName = (typeof backendNames)[number]

/** Where the networks run; `gpu` and `npu` are Intel's. */
export const devices = ['cpu', 'cuda', 'webgpu', 'gpu', 'npu'] as const
export type Device = (typeof devices)[number]

/** Which devices a backend knows. */
export const backendDevices = {
  onnxruntime: ['cpu', 'cuda', 'webgpu'],
  openvino: ['cpu', 'gpu', 'npu'],
} as const satisfies Record<BackendName, readonly Device[]>

/** What a deployment computes its pictures in; how each network takes part in it is its own matter. */
export const precisions = ['fp32', 'fp16', 'bf16', 'int8'] as const
export type Precision = (typeof precisions)[number]

/** The number format of a graph's floating-point values, and of the weights that are stored for it. */
export type FloatFormat = 'fp32' | 'fp16' | 'bf16'

/** What a session rounds an fp32 graph's values to on the way: nothing (`graph`), or what its device has units for. */
export type Arithmetic = 'graph' | 'bf16' | 'fp16'

/** A tensor that goes into or comes out of a graph; positions and indexes are int64. */
export type Feed = Tensor | { readonly shape: readonly number[]; readonly data: BigInt64Array }

export type SessionOptions = {
  /** Keep weights mapped from their files instead of repacking them into private memory. */
  readonly weightsInPlace: boolean
  /** Keep the activations' memory from run to run: quicker for many runs, a lower peak without. */
  readonly keepActivations: boolean
  /** Throws `device_unavailable` where backend or device cannot. */
  readonly arithmetic: Arithmetic
  /** Keep what is compiled in the cache folder, where compiling takes long; its size in bytes, about. */
  readonly keptBytes?: number | undefined
}

/** One compiled graph. Runs are one at a time. */
export type Session = AsyncDisposable & {
  /** Run the graph; rejects with `backend_failed` and the backend's own message. */
  run(feeds: Readonly<Record<string, Feed>>): Promise<Record<string, Tensor>>
  /** Ask a running inference to stop. False when this backend cannot: end the process instead. */
  cancel(): boolean
  /** Release the memory; the session cannot be used afterwards. */
  close(): Promise<void>
}

/** Compiles graphs for one device. */
export type Backend = {
  readonly name: BackendName
  readonly device: Device
  create(model: Uint8Array, options: SessionOptions): Promise<Session>
  /**
   * Several graphs as one session, loaded side by side and run one after the other: outputs that a later one reads under
   * the same name stay inside. Absent where that loads no quicker than one graph.
   */
  readonly createChain?: (models: readonly Uint8Array[], options: SessionOptions) => Promise<Session>
}
