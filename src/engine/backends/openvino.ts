// OpenVINO behind the Backend type. It reads the same ONNX graphs as onnxruntime, maps their weights, and runs on threads
// of its own: the calling thread stays free, and a running inference can be interrupted.
import path from 'node:path'
import { AppError } from '../../errors.ts'
import type { Arithmetic, Backend, Device, Session, SessionOptions } from '../backend.ts'
import { modelInputs, modelOutputs } from '../onnx/model-values.ts'
import type { CacheOptions } from '../weights/kept-file.ts'
import { canKeepCompiled, openCompiled, type OpenCompiled } from './openvino-compiled.ts'
import { releasingMapping } from './mapped-pages.ts'
import { loadOpenvino, OpenvinoError, type Handle, type OpenvinoLibrary } from './openvino-library.ts'
import type { OpenvinoPlace } from './openvino-places.ts'
import { openSession, openvinoFault, reasonOf, type Link } from './openvino-session.ts'

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
    create: (model, sessionOptions) => createSession(library, [model], options, sessionOptions),
    // One thread reads most of a network: two halves take half the time. Values between them are in the CPU's memory.
    ...(device === 'cpu' && {
      createChain: (models, sessionOptions) => createSession(library, models, options, sessionOptions),
    }),
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

/** Compiles graphs side by side, or reads back what was compiled of them. */
async function createSession(
  library: OpenvinoLibrary,
  models: readonly Uint8Array[],
  options: OpenvinoOptions,
  { arithmetic, keptBytes }: SessionOptions,
): Promise<Session> {
  const { device, threads } = options
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
  using owned = new DisposableStack()
  const opened = await Promise.allSettled(
    models.map((model) => openLink(library, model, options, properties, keptBytes)),
  )
  const links = opened.flatMap((result) => (result.status === 'fulfilled' ? [owned.use(result.value)] : []))
  const failed = opened.find((result) => result.status === 'rejected')
  try {
    if (failed) throw failed.reason
    return openSession(library, links, owned)
  } catch (error) {
    throw openvinoFault(error, 'a network cannot be loaded')
  }
}

async function openLink(
  library: OpenvinoLibrary,
  model: Uint8Array,
  options: OpenvinoOptions,
  properties: Readonly<Record<string, string>>,
  // Of all graphs together: each looks for room before any of them is written.
  sizeBytes: number | undefined,
): Promise<Link & Disposable> {
  const { cache, device } = options
  const compile = (): Promise<Compiled> => compileModel(library, model, options, properties)
  using owned = new DisposableStack()
  const kept =
    cache && sizeBytes !== undefined && device === 'cpu' && canKeepCompiled(library)
      ? await keepWhereThereIsRoom({ library, model, properties, cache, sizeBytes }, compile)
      : null
  const compiled = kept ? owned.use(kept).compiled : owned.adopt(await compile(), (made) => library.freeCompiled(made))
  const request = owned.adopt(library.createRequest(compiled), (made) => library.freeRequest(made))
  // Weights that see the prompt are packed when its length is known: pages that this reads are given back as well.
  const infer = (): Promise<boolean> =>
    kept ? releasingMapping(kept.mapped, () => library.infer(request)) : library.infer(request)
  const signature = { inputs: modelInputs(model), outputs: modelOutputs(model) }
  const linked = owned.move()
  return { request, ...signature, infer, [Symbol.dispose]: () => linked.dispose() }
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
