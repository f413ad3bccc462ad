// OpenVINO behind the Backend type. It reads the same ONNX graphs as onnxruntime, maps their weights, and runs on threads
// of its own: the calling thread stays free, and a running inference can be interrupted.
import path from 'node:path'
import { elementCount, type Tensor } from '#tensor/tensor.ts'
import { AppError } from '../../errors.ts'
import type { Arithmetic, Backend, Device, Feed, Session } from '../backend.ts'
import { modelOutputs, type ModelOutput } from '../onnx/model-outputs.ts'
import type { CacheOptions } from '../weights/kept-file.ts'
import { canKeepCompiled, openCompiled, type OpenCompiled } from './openvino-compiled.ts'
import { releasingMapping } from './mapped-pages.ts'
import { loadOpenvino, OpenvinoError, type Handle, type OpenvinoLibrary } from './openvino-library.ts'
import type { OpenvinoPlace } from './openvino-places.ts'

/** Devices that OpenVINO runs on. */
export type OpenvinoDevice = Extract<Device, 'cpu' | 'gpu' | 'npu'>

export type OpenvinoOptions = {
  readonly place: OpenvinoPlace
  readonly device: OpenvinoDevice
  /** Threads of the CPU. */
  readonly threads: number
  /** Folder that external data locations start from. */
  readonly externalDataRoot: string
  /** Where compiled networks are kept; absent: nowhere. */
  readonly cache?: CacheOptions
}

/** What a device computes in beside fp32, by OpenVINO's own names such as `BF16` and `INT8`. */
export type OpenvinoCapabilities = { readonly version: string; readonly formats: ReadonlySet<string> }

type Core = ReturnType<OpenvinoLibrary['createCore']>
type Compiled = Handle<'compiled'>

/** One core a library and process: it keeps the device's plugin loaded. */
const cores = new Map<OpenvinoLibrary, Core>()

const deviceNames = { cpu: 'CPU', gpu: 'GPU', npu: 'NPU' } as const satisfies Record<OpenvinoDevice, string>

/** `INFERENCE_PRECISION_HINT` for each arithmetic. */
const precisionHints = { graph: 'f32', bf16: 'bf16', fp16: 'f16' } as const satisfies Record<Arithmetic, string>

/** A backend on one device. Throws `device_unavailable` when the library, its release or the device is missing. */
export function openvinoBackend(options: OpenvinoOptions): Backend {
  const { device, place } = options
  const library = loadOpenvino(place)
  capabilitiesOf(library, device)
  return {
    name: 'openvino',
    device,
    // It always packs weights, and holds the memory of one run: the other options are matters of onnxruntime.
    create: (model, { arithmetic, keptBytes }) => createSession(library, model, options, arithmetic, keptBytes),
  }
}

/** What a device can do. Throws `device_unavailable` when the library, its release or the device is missing. */
export function openvinoCapabilities(place: OpenvinoPlace, device: OpenvinoDevice): OpenvinoCapabilities {
  const library = loadOpenvino(place)
  return { version: library.version, formats: capabilitiesOf(library, device) }
}

/** The devices that the library at a place finds on this machine, by its own names. */
export function openvinoDevices(place: OpenvinoPlace): readonly string[] {
  const library = loadOpenvino(place)
  return library.devices(coreOf(library))
}

function capabilitiesOf(library: OpenvinoLibrary, device: OpenvinoDevice): ReadonlySet<string> {
  const core = coreOf(library)
  try {
    const text = library.property(core, deviceNames[device], 'OPTIMIZATION_CAPABILITIES')
    // A plugin answers also where its device is not.
    if (device !== 'cpu' && !library.devices(core).some((name) => name.split('.')[0] === deviceNames[device]))
      throw new OpenvinoError('there is no such device')
    return new Set(text.split(/[\s,]+/).filter((format) => format !== ''))
  } catch (error) {
    if (!(error instanceof OpenvinoError)) throw error
    throw new AppError(
      'device_unavailable',
      `device: OpenVINO in ${library.place.folder} cannot use ${deviceNames[device]} here: ${reasonOf(error)}`,
      { cause: error },
    )
  }
}

function coreOf(library: OpenvinoLibrary): Core {
  const core = cores.get(library) ?? library.createCore()
  cores.set(library, core)
  return core
}

async function createSession(
  library: OpenvinoLibrary,
  model: Uint8Array,
  options: OpenvinoOptions,
  arithmetic: Arithmetic,
  keptBytes: number | undefined,
): Promise<Session> {
  const { cache, device, threads } = options
  const properties = {
    INFERENCE_PRECISION_HINT: precisionHints[arithmetic],
    PERFORMANCE_HINT: 'LATENCY',
    ...(device === 'cpu' && {
      NUM_STREAMS: '1',
      INFERENCE_NUM_THREADS: String(threads),
      // As many threads as were asked for, and none nailed to a core that another engine process has chosen too.
      ENABLE_HYPER_THREADING: 'YES',
      ENABLE_CPU_PINNING: 'NO',
    }),
  }
  const compile = (): Promise<Compiled> => compileModel(library, model, options, properties)
  try {
    using owned = new DisposableStack()
    const kept =
      cache && keptBytes !== undefined && device === 'cpu' && canKeepCompiled(library)
        ? await keepWhereThereIsRoom({ library, model, properties, cache, sizeBytes: keptBytes }, compile)
        : null
    const compiled = kept
      ? owned.use(kept).compiled
      : owned.adopt(await compile(), (made) => library.freeCompiled(made))
    const request = owned.adopt(library.createRequest(compiled), (made) => library.freeRequest(made))
    // Weights that see the prompt are packed when its length is known: pages that this reads are given back as well.
    const infer = (): Promise<boolean> =>
      kept ? releasingMapping(kept.mapped, () => library.infer(request)) : library.infer(request)
    return openSession(library, { request, infer }, modelOutputs(model), owned.move())
  } catch (error) {
    throw backendError(error, 'a network cannot be loaded')
  }
}

/** The network out of the cache folder; null where the disk has no room for it there. */
async function keepWhereThereIsRoom(...order: Parameters<typeof openCompiled>): Promise<OpenCompiled | null> {
  try {
    return await openCompiled(...order)
  } catch (error) {
    if (error instanceof AppError && error.code === 'disk_full') return null
    throw error
  }
}

async function compileModel(
  library: OpenvinoLibrary,
  model: Uint8Array,
  { device, externalDataRoot }: OpenvinoOptions,
  properties: Readonly<Record<string, string>>,
): Promise<Compiled> {
  const graph = readModel(library, model, externalDataRoot)
  try {
    return await library.compile(coreOf(library), graph, deviceNames[device], properties)
  } finally {
    library.freeModel(graph)
  }
}

/**
 * A model whose weights stay in their files. Locations of a model that is read from memory start from the current folder,
 * and nothing else can run in this thread meanwhile.
 */
function readModel(
  library: OpenvinoLibrary,
  model: Uint8Array,
  root: string,
): ReturnType<OpenvinoLibrary['readModel']> {
  const before = process.cwd()
  process.chdir(path.resolve(root))
  try {
    return library.readModel(coreOf(library), model)
  } finally {
    process.chdir(before)
  }
}

const noValues = new Float32Array(1)

type Inference = {
  readonly request: ReturnType<OpenvinoLibrary['createRequest']>
  /** Whether it was cancelled. */
  readonly infer: () => Promise<boolean>
}

function openSession(
  library: OpenvinoLibrary,
  { infer, request }: Inference,
  outputs: readonly ModelOutput[],
  owned: DisposableStack,
): Session {
  let running: Promise<boolean> | null = null
  let open = true

  const run: Session['run'] = async (feeds) => {
    if (!open) throw new AppError('internal', 'session: used after close')
    if (running) throw new AppError('internal', 'session: runs are one at a time')
    using tensors = new DisposableStack()
    const bind = (name: string, { shape, data }: Feed): void => {
      // The library wants a place even for no values: a LoRA of rank 0.
      const memory = data.length > 0 ? data : noValues
      const tensor = library.createTensor(data instanceof BigInt64Array ? 'i64' : 'f32', shape, memory)
      // The memory is held with it: nothing else may have a use for it while the library does.
      tensors.adopt({ tensor, memory }, (bound) => library.freeTensor(bound.tensor))
      library.setTensor(request, name, tensor)
    }
    const results: Record<string, Tensor> = {}
    try {
      for (const [name, feed] of Object.entries(feeds)) bind(name, feed)
      for (const { name, shape } of outputs) {
        if (shape === null) continue
        results[name] = { shape, data: new Float32Array(elementCount(shape)) }
        bind(name, results[name])
      }
      running = infer()
      if (await running) throw new AppError('cancelled', 'cancelled')
      for (const { name, shape } of outputs) if (shape === null) results[name] = library.readTensor(request, name)
      return results
    } catch (error) {
      throw backendError(error, 'a network failed to run')
    } finally {
      running = null
    }
  }

  const close = async (): Promise<void> => {
    if (!open) return
    open = false
    // Its memory may be freed only when no thread works in it any more.
    if (running) {
      library.cancel(request)
      await Promise.allSettled([running])
    }
    owned.dispose()
  }
  return {
    run,
    cancel() {
      if (open && running) library.cancel(request)
      return true
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}

function backendError(error: unknown, what: string): unknown {
  if (!(error instanceof OpenvinoError)) return error
  const reason = reasonOf(error)
  const outOfMemory = /bad_alloc|out of memory|failed to allocate|cannot allocate/i.test(error.message)
  return new AppError(outOfMemory ? 'out_of_memory' : 'backend_failed', `${what}: ${reason}`, { cause: error })
}

/** What the library says, in one line: without the places in its sources, which stand on lines of their own. */
function reasonOf({ message }: OpenvinoError): string {
  const lines = message.split('\n').map((line) => line.trim())
  const spoken = lines.filter((line) => line !== '' && !/^(Exception from|Check ').*:\d+:?$/.test(line))
  return (spoken.length > 0 ? spoken : lines).join(' ').replaceAll(/\s+/g, ' ').trim().slice(0, 300)
}
