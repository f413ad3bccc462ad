// onnxruntime behind the Backend type; the only file that imports it. Its calls block the calling thread until they are
// done and cannot be interrupted, which is why engines live in child processes (docs/adr/0002).
import { env, InferenceSession, listSupportedBackends, Tensor as OrtTensor } from 'onnxruntime-node'
import type { Tensor } from '#tensor/tensor.ts'
import { AppError } from '../../errors.ts'
import { backendDevices, type Backend, type Device, type Feed, type Session, type SessionOptions } from '../backend.ts'
import { tryBackend } from './try-backend.ts'

export type OnnxruntimeOptions = {
  readonly device: Device
  /** Threads inside one operator. */
  readonly threads: number
  /** Folder that external data locations start from. */
  readonly externalDataRoot: string
}

/** Whether onnxruntime's provider for a device loads on this machine, and the reason when it does not. */
export type ProviderProbe = { readonly device: Device; readonly loads: boolean; readonly reason: string | null }

// Its Linux builds report their use to Microsoft: they keep an identity and a database in the user's cache folder, leave
// logs in the temporary one, and open connections. It is asked when the first session is made.
process.env['ORT_DISABLE_TELEMETRY'] = '1'

/** The library's version. */
export const onnxruntimeVersion: string = env.versions.node ?? env.versions.common

/** A backend on one device. Throws `device_unavailable` when this build of onnxruntime has no such provider. */
export function onnxruntimeBackend(options: OnnxruntimeOptions): Backend {
  const { device } = options
  if (!listSupportedBackends().some((backend) => backend.name === device))
    throw new AppError('device_unavailable', `device: this build of onnxruntime has no "${device}" provider`)
  return {
    name: 'onnxruntime',
    device,
    create: async (model, sessionOptions) => createSession(model, options, sessionOptions),
  }
}

/** Try each provider. */
export async function probeProviders(): Promise<ProviderProbe[]> {
  const probes: ProviderProbe[] = []
  for (const device of backendDevices.onnxruntime) {
    try {
      await tryBackend(onnxruntimeBackend({ device, threads: 1, externalDataRoot: '/' }))
      probes.push({ device, loads: true, reason: null })
    } catch (error) {
      const reason = error instanceof AppError && error.cause !== undefined ? error.cause : error
      probes.push({ device, loads: false, reason: nativeReason(reason) })
    }
  }
  return probes
}

async function createSession(
  model: Uint8Array,
  options: OnnxruntimeOptions,
  { weightsInPlace, keepActivations, arithmetic }: SessionOptions,
): Promise<Session> {
  const { device } = options
  if (arithmetic !== 'graph')
    throw new AppError(
      'device_unavailable',
      `precision: onnxruntime computes in the graph's own numbers, not in ${arithmetic}`,
    )
  let session: InferenceSession
  try {
    session = await InferenceSession.create(model, {
      executionProviders: [device],
      intraOpNumThreads: options.threads,
      interOpNumThreads: 1,
      // Measured at 1024²: memory patterns double the activations' memory and gain nothing.
      enableMemPattern: false,
      enableCpuMemArena: keepActivations,
      // `all` rewrites convolutions to a blocked layout and copies their weights. What the lower levels do, our graphs
      // are emitted with already: they only take a third of the time that a large network needs to load.
      graphOptimizationLevel: weightsInPlace ? 'disabled' : 'all',
      logSeverityLevel: 3,
      extra: {
        session: {
          disable_prepacking: weightsInPlace ? '1' : '0',
          model_external_initializers_file_folder_path: options.externalDataRoot,
        },
      },
    })
  } catch (error) {
    if (device === 'cpu') throw backendError(error, 'backend_failed', 'a network cannot be loaded')
    throw backendError(
      error,
      'device_unavailable',
      `device: ${device} does not work here ("sepia doctor" tells what does)`,
    )
  }

  let open = true
  const close = async (): Promise<void> => {
    if (!open) return
    open = false
    await session.release()
  }
  return {
    async run(feeds) {
      if (!open) throw new AppError('internal', 'session: used after close')
      try {
        const results = await session.run(mapValues(feeds, toOrt))
        return mapValues(results, fromOrt)
      } catch (error) {
        throw backendError(error, 'backend_failed', 'a network failed to run')
      }
    },
    cancel: () => false,
    close,
    [Symbol.asyncDispose]: close,
  }
}

function toOrt({ data, shape }: Feed): OrtTensor {
  return data instanceof BigInt64Array ? new OrtTensor('int64', data, shape) : new OrtTensor('float32', data, shape)
}

function fromOrt(value: OrtTensor): Tensor {
  if (!(value.data instanceof Float32Array))
    throw new AppError('internal', `a network answered ${value.type}, not float32`)
  return { shape: value.dims, data: value.data }
}

function mapValues<A, B>(record: Readonly<Record<string, A>>, map: (value: A) => B): Record<string, B> {
  return Object.fromEntries(Object.entries(record).map(([key, value]) => [key, map(value)]))
}

function backendError(error: unknown, code: 'backend_failed' | 'device_unavailable', what: string): AppError {
  const reason = nativeReason(error)
  const outOfMemory = /bad_alloc|out of memory|Failed to allocate/i.test(reason)
  return new AppError(outOfMemory ? 'out_of_memory' : code, `${what}: ${reason}`, { cause: error })
}

/** The first line of the library's own message, without the place in its sources that it starts with. */
function nativeReason(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error)
  const line = message.trim().split('\n', 1)[0]
  return line.replace(/^\S*\.(?:cc|h):\d+ .* was false\. /, '').slice(0, 300)
}
