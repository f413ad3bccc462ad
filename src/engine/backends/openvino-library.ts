// OpenVINO's C API, called through koffi; the only file that imports it. Handles are opaque here: openvino.ts says what
// becomes of them.
import { existsSync } from 'node:fs'
import koffi, { type LibraryHandle } from 'koffi'
import { AppError } from '../../errors.ts'
import { openvinoRelease, type OpenvinoPlace } from './openvino-places.ts'

declare const handle: unique symbol
/** A pointer of the library's. */
export type Handle<Kind extends string> = { readonly [handle]: Kind }
type Core = Handle<'core'>
type Model = Handle<'model'>
type Compiled = Handle<'compiled'>
type Request = Handle<'request'>
type TensorHandle = Handle<'tensor'>

/** Element types of tensors, by the names of `ov_element_type_e`. */
export const elementTypes = { f32: 4, i64: 10 } as const
/** `ov_status_e` of an inference that was cancelled. */
const cancelledStatus = -13

/** The functions of a loaded library. Each throws an {@link OpenvinoError} with the library's own message. */
export type OpenvinoLibrary = {
  readonly place: OpenvinoPlace
  /** As the library says it, with its build. */
  readonly version: string
  createCore(): Core
  devices(core: Core): readonly string[]
  property(core: Core, device: string, key: string): string
  readModel(core: Core, model: Uint8Array): Model
  compile(core: Core, model: Model, device: string, properties: Readonly<Record<string, string>>): Promise<Compiled>
  /** Defaults of a core for a device, which hold for what it imports. */
  setProperties(core: Core, device: string, properties: Readonly<Record<string, string>>): void
  /** Write what was compiled to a file. */
  exportModel(compiled: Compiled, file: string): Promise<void>
  /** What {@link exportModel} wrote, from memory that must outlive it. */
  importModel(core: Core, address: bigint, length: number, device: string): Promise<Compiled>
  createRequest(compiled: Compiled): Request
  /** A tensor over memory of ours, which must outlive it. */
  createTensor(type: keyof typeof elementTypes, shape: readonly number[], data: ArrayBufferView): TensorHandle
  setTensor(request: Request, name: string, tensor: TensorHandle): void
  /** The memory of an input or output whose size is known. */
  tensorOf(request: Request, name: string): TensorHandle
  /** A copy of what an inference has left under a name. */
  readTensor(request: Request, name: string): { readonly shape: readonly number[]; readonly data: Float32Array }
  /** Run on another thread; true when it was cancelled. */
  infer(request: Request): Promise<boolean>
  cancel(request: Request): void
  freeCore(core: Core): void
  freeModel(model: Model): void
  freeCompiled(compiled: Compiled): void
  freeRequest(request: Request): void
  freeTensor(tensor: TensorHandle): void
}

/** A refusal of the library's, in its own words. */
export class OpenvinoError extends Error {
  override readonly name = 'OpenvinoError'
}

type Shape = { rank: number | bigint; dims: unknown }
type Out = [unknown]
type NativeFunction = ReturnType<LibraryHandle['func']>

koffi.struct('sepia_ov_version', { buildNumber: 'const char*', description: 'const char*' })
koffi.struct('sepia_ov_shape', { rank: 'int64_t', dims: 'int64_t*' })
koffi.struct('sepia_ov_property', { key: 'const char*', value: 'const char*' })
koffi.struct('sepia_ov_devices', { devices: 'void*', size: 'size_t' })

const loaded = new Map<string, OpenvinoLibrary>()

/**
 * Load the library at a place; a second time gives the same one. Throws `device_unavailable` when it does not load, or
 * is another release than the one that Sepia works with.
 */
export function loadOpenvino(place: OpenvinoPlace): OpenvinoLibrary {
  const known = loaded.get(place.library)
  if (known) return known
  const library = bind(place)
  loaded.set(place.library, library)
  return library
}

function bind(place: OpenvinoPlace): OpenvinoLibrary {
  const file = open(place)
  const call = (prototype: string): NativeFunction => functionOf(place, file, prototype)
  const lastError = call('const char* ov_get_last_err_msg()') as () => string
  const check = (status: number): void => {
    if (status !== 0) throw new OpenvinoError(lastError() || 'no reason given')
  }
  const out = (run: (result: Out) => number): unknown => {
    const result: Out = [null]
    check(run(result))
    return result[0]
  }

  const version = versionOf(place, call)
  const coreCreate = call('int ov_core_create(_Out_ void** core)') as (core: Out) => number
  const devicesOf = call('int ov_core_get_available_devices(void* core, _Out_ sepia_ov_devices* devices)') as (
    core: Core,
    devices: object,
  ) => number
  const devicesFree = call('void ov_available_devices_free(sepia_ov_devices* devices)') as (devices: object) => void
  const coreProperty = call(
    'int ov_core_get_property(void* core, const char* device, const char* key, _Out_ void** value)',
  ) as (core: Core, device: string, key: string, value: Out) => number
  const free = call('void ov_free(void* content)') as (content: unknown) => void
  const read = call(
    'int ov_core_read_model_from_memory_buffer(void* core, const void* model, size_t length, void* weights, _Out_ void** result)',
  ) as (core: Core, model: Uint8Array, length: number, weights: null, result: Out) => number
  const compileModel = call(
    'int ov_core_compile_model_props(void* core, void* model, const char* device, size_t count, const sepia_ov_property* properties, _Out_ void** compiled)',
  )
  const setProperty = call('int ov_core_set_property(void* core, const char* device, ...)') as (
    core: Core,
    device: string,
    ...pair: readonly string[]
  ) => number
  const exportModel = call('int ov_compiled_model_export_model(void* compiled, const char* file)')
  const importModel = call(
    'int ov_core_import_model(void* core, uintptr_t content, size_t length, const char* device, _Out_ void** compiled)',
  )
  const shapeCreate = call('int ov_shape_create(int64_t rank, const int64_t* dims, _Out_ sepia_ov_shape* shape)') as (
    rank: number,
    dims: BigInt64Array,
    shape: Shape,
  ) => number
  const shapeFree = call('int ov_shape_free(sepia_ov_shape* shape)') as (shape: Shape) => number
  const requestCreate = call('int ov_compiled_model_create_infer_request(void* compiled, _Out_ void** request)') as (
    compiled: Compiled,
    request: Out,
  ) => number
  const tensorCreate = call(
    'int ov_tensor_create_from_host_ptr(int type, sepia_ov_shape shape, void* data, _Out_ void** tensor)',
  ) as (type: number, shape: Shape, data: ArrayBufferView, tensor: Out) => number
  const setTensor = call('int ov_infer_request_set_tensor(void* request, const char* name, void* tensor)') as (
    request: Request,
    name: string,
    tensor: TensorHandle,
  ) => number
  const getTensor = call('int ov_infer_request_get_tensor(void* request, const char* name, _Out_ void** tensor)') as (
    request: Request,
    name: string,
    tensor: Out,
  ) => number
  const tensorShape = call('int ov_tensor_get_shape(void* tensor, _Out_ sepia_ov_shape* shape)') as (
    tensor: TensorHandle,
    shape: Shape,
  ) => number
  const tensorData = call('int ov_tensor_data(void* tensor, _Out_ void** data)') as (
    tensor: TensorHandle,
    data: Out,
  ) => number
  const infer = call('int ov_infer_request_infer(void* request)')
  const cancel = call('int ov_infer_request_cancel(void* request)') as (request: Request) => number
  const freeing = <Kind extends string>(name: string) =>
    call(`void ${name}(void* handle)`) as (handle: Handle<Kind>) => void
  const freeTensor = freeing<'tensor'>('ov_tensor_free')

  const tensorOf = (request: Request, name: string): TensorHandle =>
    out((result) => getTensor(request, name, result)) as TensorHandle
  const shapeOf = (shape: Shape): readonly number[] => {
    const rank = Number(shape.rank)
    const dims = rank === 0 ? [] : Array.from(koffi.decode(shape.dims, 'int64_t', rank) as ArrayLike<number | bigint>)
    shapeFree(shape)
    return dims.map(Number)
  }
  const textAt = (pointer: unknown): string => {
    const text = koffi.decode(pointer, 'char', -1) as string
    free(pointer)
    return text
  }
  /** A call on another thread of koffi's; its message is asked for before anything else can call. */
  const onThread = (run: NativeFunction, ...args: unknown[]): Promise<number> =>
    new Promise((resolve, reject) => {
      run.async(...args, (error: Error | null, status: number) => (error ? reject(error) : resolve(status)))
    })

  return {
    place,
    version,
    createCore: () => out(coreCreate) as Core,
    devices(core) {
      const list: { devices?: unknown; size?: number | bigint } = {}
      check(devicesOf(core, list))
      const names = koffi.decode(list.devices, 'char*', Number(list.size)) as string[]
      devicesFree(list)
      return names
    },
    property: (core, device, key) => textAt(out((value) => coreProperty(core, device, key, value))),
    readModel: (core, model) => out((result) => read(core, model, model.length, null, result)) as Model,
    async compile(core, model, device, properties) {
      const list = Object.entries(properties).map(([key, value]) => ({ key, value }))
      const compiled: Out = [null]
      check(await onThread(compileModel, core, model, device, list.length, list, compiled))
      return compiled[0] as Compiled
    },
    setProperties(core, device, properties) {
      for (const [key, value] of Object.entries(properties))
        check(setProperty(core, device, 'const char*', key, 'const char*', value))
    },
    async exportModel(compiled, path) {
      check(await onThread(exportModel, compiled, path))
    },
    async importModel(core, address, length, device) {
      const compiled: Out = [null]
      check(await onThread(importModel, core, address, length, device, compiled))
      return compiled[0] as Compiled
    },
    createRequest: (compiled) => out((result) => requestCreate(compiled, result)) as Request,
    createTensor(type, shape, data) {
      const made: Shape = { rank: 0, dims: null }
      check(shapeCreate(shape.length, BigInt64Array.from(shape, BigInt), made))
      try {
        return out((result) => tensorCreate(elementTypes[type], made, data, result)) as TensorHandle
      } finally {
        shapeFree(made)
      }
    },
    setTensor: (request, name, tensor) => check(setTensor(request, name, tensor)),
    tensorOf,
    readTensor(request, name) {
      const tensor = tensorOf(request, name)
      try {
        const made: Shape = { rank: 0, dims: null }
        check(tensorShape(tensor, made))
        const shape = shapeOf(made)
        const length = shape.reduce((product, size) => product * size, 1)
        const data = koffi.decode(
          out((result) => tensorData(tensor, result)),
          'float',
          length,
        ) as Float32Array
        return { shape, data: Float32Array.from(data) }
      } finally {
        freeTensor(tensor)
      }
    },
    async infer(request) {
      const status = await onThread(infer, request)
      if (status !== cancelledStatus) check(status)
      return status === cancelledStatus
    },
    cancel: (request) => check(cancel(request)),
    freeCore: freeing('ov_core_free'),
    freeModel: freeing('ov_model_free'),
    freeCompiled: freeing('ov_compiled_model_free'),
    freeRequest: freeing('ov_infer_request_free'),
    freeTensor,
  }
}

/** A function of the library. Throws `device_unavailable` where it has none of that name: it is something else. */
function functionOf({ library }: OpenvinoPlace, file: LibraryHandle, prototype: string): NativeFunction {
  try {
    return file.func(prototype)
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw new AppError('device_unavailable', `openvino: ${library} is not OpenVINO ${openvinoRelease}: ${reason}`, {
      cause: error,
    })
  }
}

/** The library's file, opened. Throws `device_unavailable` with the system's reason. */
function open({ library }: OpenvinoPlace): LibraryHandle {
  if (!existsSync(library)) throw new AppError('device_unavailable', `openvino: ${library} has vanished`)
  // Their names end in year, release and patch: 2641 is 2026.4.1.
  const named = /\.(\d\d)(\d)(\d)(?:\.dylib)?$/.exec(library)
  if (named && `20${named[1]}.${named[2]}` !== openvinoRelease)
    throw wrongRelease(library, `20${named[1]}.${named[2]}.${named[3]}`)
  try {
    return koffi.load(library)
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw new AppError(
      'device_unavailable',
      `openvino: ${library} does not load: ${reason}; "sepia backend install openvino" fetches one that does`,
      { cause: error },
    )
  }
}

/** The version that the library tells. Throws `device_unavailable` for another release. */
function versionOf({ library }: OpenvinoPlace, call: (prototype: string) => NativeFunction): string {
  const getVersion = call('int ov_get_openvino_version(_Out_ sepia_ov_version* version)') as (version: object) => number
  const told: { buildNumber?: string } = {}
  if (getVersion(told) !== 0) throw new AppError('device_unavailable', `openvino: ${library} does not tell its version`)
  const version = told.buildNumber ?? ''
  if (!version.startsWith(`${openvinoRelease}.`)) throw wrongRelease(library, version)
  return version
}

/** The refusal of a library of another release, whose functions and answers may differ. */
function wrongRelease(library: string, version: string): AppError {
  return new AppError(
    'device_unavailable',
    `openvino: ${library} is version ${version}, Sepia works with ${openvinoRelease}; "sepia backend install openvino" fetches it`,
  )
}
