// The seam between the pipeline and whatever computes: a backend turns ONNX bytes into a session, a session turns
// named tensors into named tensors. onnxruntime is the first implementation, OpenVINO will be the second.
import type { Tensor } from '#tensor/tensor.ts'

/** Where the networks run. */
export const devices = ['cpu', 'cuda', 'webgpu'] as const
export type Device = (typeof devices)[number]

/** The arithmetic of the networks' graphs. */
export const precisions = ['fp32', 'fp16'] as const
export type Precision = (typeof precisions)[number]

/** A tensor that goes into or comes out of a graph; positions and indexes are int64. */
export type Feed = Tensor | { readonly shape: readonly number[]; readonly data: BigInt64Array }

export type SessionOptions = {
  /** Keep weights mapped from their files instead of repacking them into private memory. */
  readonly weightsInPlace: boolean
  /** Keep the activations' memory from run to run: quicker for many runs, a lower peak without. */
  readonly keepActivations: boolean
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
  readonly name: string
  readonly device: Device
  create(model: Uint8Array, options: SessionOptions): Promise<Session>
}
