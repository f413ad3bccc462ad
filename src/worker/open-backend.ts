import type { Backend, BackendName } from '#engine/backend.ts'
import { returnLargeBlocks } from '#engine/backends/large-blocks.ts'
import { externalDataRoot } from '#engine/onnx/bind-weights.ts'
import { AppError } from '../errors.ts'
import { chooseEngine, type ChosenEngine } from './engine-choice.ts'
import { interruptible, type InterruptibleBackend } from './interruptible-backend.ts'
import type { EngineSettings } from './protocol.ts'

/** What an engine process computes with, and why. */
export type OpenEngine = {
  readonly choice: ChosenEngine
  /** What was chosen, and what some of its networks are better run on. */
  readonly backends: Readonly<Partial<Record<BackendName, Backend>>>
  /** Null where a running inference cannot be stopped. */
  readonly interruptible: InterruptibleBackend | null
}

/**
 * Open what the settings choose, and onnxruntime beside OpenVINO on a CPU; OpenVINO is not loaded where it is not chosen.
 * Throws `device_unavailable`.
 */
export async function openEngine(settings: EngineSettings): Promise<OpenEngine> {
  returnLargeBlocks()
  const choice = await chooseEngine(settings)
  const { cacheDir, cacheLimitBytes: limitBytes, device, scratchDir, threads } = settings
  const options = { threads, externalDataRoot: externalDataRoot(cacheDir) }
  const { onnxruntimeBackend } = await import('#engine/backends/onnxruntime.ts')
  if (choice.backend === 'onnxruntime')
    return { choice, backends: { onnxruntime: onnxruntimeBackend({ ...options, device }) }, interruptible: null }
  const { openvinoBackend } = await import('#engine/backends/openvino.ts')
  const { openvino } = choice
  if (!openvino || 'fault' in openvino || device === 'cuda' || device === 'webgpu')
    throw new AppError('internal', `engine: openvino was chosen for ${device} without being found`)
  const cache = { cacheDir, limitBytes, scratchDir }
  const backend = interruptible(openvinoBackend({ ...options, device, place: openvino.place, cache }))
  const beside = device === 'cpu' ? { onnxruntime: onnxruntimeBackend({ ...options, device }) } : {}
  return { choice, backends: { openvino: backend, ...beside }, interruptible: backend }
}
