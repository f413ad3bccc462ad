// What `auto` stands for on this machine, and whether what was asked for can be had. The choice itself is a function of
// the settings and of what OpenVINO was found to be, so that it can be told, and tested, for any machine.
import {
  backendDevices,
  type Arithmetic,
  type BackendName,
  type Device,
  type FloatFormat,
  type Precision,
} from '#engine/backend.ts'
import { findOpenvino, type OpenvinoPlace } from '#engine/backends/openvino-places.ts'
import type { ComponentName } from '#engine/weights/checkpoint.ts'
import { AppError } from '../errors.ts'
import type { EngineChoice, EngineSettings } from './protocol.ts'

/** OpenVINO as it was found: what the settings' device computes in, or why it cannot be used; null: there is none. */
export type FoundOpenvino =
  | { readonly place: OpenvinoPlace; readonly version: string; readonly formats: ReadonlySet<string> }
  | { readonly fault: AppError }
  | null

/** A choice, what was found on the way to it, and why it is this one. */
export type ChosenEngine = EngineChoice & { readonly openvino: FoundOpenvino; readonly reason: string }

/** How one network takes part in a precision: what runs it, what its graph is emitted in, and how its session computes. */
export type NetworkArithmetic = {
  readonly backend: BackendName
  readonly precision: FloatFormat
  readonly arithmetic: Arithmetic
}

const install = '"sepia backend install openvino" fetches it'

/** Resolve backend and precision on this machine. Throws `device_unavailable` for what it cannot do. */
export async function chooseEngine(settings: EngineSettings): Promise<ChosenEngine> {
  // Its libraries are opened only where they may be wanted.
  const openvino = mayUseOpenvino(settings) ? await lookForOpenvino(settings) : null
  return { ...resolveChoice(settings, openvino), openvino }
}

function mayUseOpenvino({ backend, device, precision }: EngineSettings): boolean {
  if (backend !== 'auto') return backend === 'openvino'
  return isOpenvinoDevice(device) && !(device === 'cpu' && (precision === 'fp32' || precision === 'fp16'))
}

/** OpenVINO in the settings' folders or the system's, and what it says of the device. */
export async function lookForOpenvino({ device, openvinoFolders = [] }: EngineSettings): Promise<FoundOpenvino> {
  if (!isOpenvinoDevice(device)) return null
  try {
    const place = findOpenvino(openvinoFolders)
    if (!place) return null
    const { openvinoCapabilities } = await import('#engine/backends/openvino.ts')
    return { place, ...openvinoCapabilities(place, device) }
  } catch (error) {
    if (error instanceof AppError) return { fault: error }
    throw error
  }
}

function isOpenvinoDevice(device: Device): device is (typeof backendDevices.openvino)[number] {
  return (backendDevices.openvino as readonly Device[]).includes(device)
}

/** The choice for settings and what OpenVINO is here. Throws `device_unavailable` with the way out. */
export function resolveChoice(
  settings: Pick<EngineSettings, 'backend' | 'device' | 'precision'>,
  openvino: FoundOpenvino,
): EngineChoice & { readonly reason: string } {
  const { device } = settings
  const backend = settings.backend === 'auto' ? backendFor(settings, openvino) : settings.backend
  const known: readonly Device[] = backendDevices[backend]
  if (!known.includes(device))
    throw new AppError('device_unavailable', `device ${device}: ${backend} knows ${known.join(', ')}`)
  if (backend === 'onnxruntime') return onnxruntimeChoice(settings, openvino)
  if (openvino === null)
    throw new AppError('device_unavailable', `${wanting(settings)} needs OpenVINO, which is not found; ${install}`)
  if ('fault' in openvino) throw openvino.fault
  return openvinoChoice(settings, openvino.formats)
}

/** The backend that a precision runs fastest on; for fp32 the one that loads quickest. */
function backendFor(
  { device, precision }: Pick<EngineSettings, 'device' | 'precision'>,
  openvino: FoundOpenvino,
): BackendName {
  if (device === 'gpu' || device === 'npu') return 'openvino'
  if (precision === 'bf16') return 'openvino'
  if ((precision !== 'auto' && precision !== 'int8') || device !== 'cpu') return 'onnxruntime'
  const needed = precision === 'int8' ? 'INT8' : 'BF16'
  return openvino && 'formats' in openvino && openvino.formats.has(needed) ? 'openvino' : 'onnxruntime'
}

function onnxruntimeChoice(
  { backend, device, precision }: Pick<EngineSettings, 'backend' | 'device' | 'precision'>,
  openvino: FoundOpenvino,
): EngineChoice & { readonly reason: string } {
  if (precision === 'bf16')
    throw new AppError('device_unavailable', 'precision: bf16 needs the backend openvino; onnxruntime has fp32')
  if (precision === 'int8' && device !== 'cpu')
    throw new AppError('device_unavailable', `precision: int8 runs on the cpu alone, not on ${device}`)
  if (precision !== 'auto') return { backend: 'onnxruntime', precision, reason: `${precision} was asked for` }
  const why = (): string => {
    if (backend === 'onnxruntime') return 'onnxruntime was asked for, and its fp32 is exact'
    if (device !== 'cpu') return `on ${device} nothing faster is known to be lossless`
    if (openvino === null) return `bf16 needs OpenVINO, which is not found; ${install}`
    if ('fault' in openvino) return openvino.fault.message
    return 'this CPU has neither AVX512_BF16 nor AMX, which bf16 needs'
  }
  return { backend: 'onnxruntime', precision: 'fp32', reason: why() }
}

/** What a precision needs of a device, by OpenVINO's names. */
const neededFormat = { fp32: 'FP32', fp16: 'FP16', bf16: 'BF16', int8: 'INT8' } as const

function openvinoChoice(
  { device, precision }: Pick<EngineSettings, 'device' | 'precision'>,
  formats: ReadonlySet<string>,
): EngineChoice & { readonly reason: string } {
  const has = (wanted: Precision): boolean => formats.has(neededFormat[wanted])
  if (precision !== 'auto') {
    if (precision !== 'fp32' && !has(precision)) throw new AppError('device_unavailable', lacking(device, precision))
    return { backend: 'openvino', precision, reason: `${precision} was asked for` }
  }
  if (device === 'cpu' && has('bf16'))
    return { backend: 'openvino', precision: 'bf16', reason: 'this CPU computes in bf16, twice as fast as in fp32' }
  if (device !== 'cpu' && has('fp16'))
    return { backend: 'openvino', precision: 'fp16', reason: `the ${device} computes in fp16` }
  return { backend: 'openvino', precision: 'fp32', reason: `the ${device} has nothing faster that is lossless` }
}

function lacking(device: Device, precision: Precision): string {
  const needs = { fp32: '', fp16: 'AVX512_FP16', bf16: 'AVX512_BF16 or AMX', int8: 'AVX2' }[precision]
  const what = device === 'cpu' ? `a CPU with ${needs}, which this one does not have` : `another device than ${device}`
  return `precision: ${precision} needs ${what}; take fp32, or auto for the fastest that is lossless here`
}

function wanting({ backend, device, precision }: Pick<EngineSettings, 'backend' | 'device' | 'precision'>): string {
  if (backend === 'openvino') return 'backend: openvino'
  return device === 'cpu' ? `precision: ${precision}` : `device: ${device}`
}

/**
 * How a network takes part in a precision. The VAE stays in fp32: SDXL's overflows in fp16, and the eight bits of bf16
 * show as contours in smooth areas. So do the text encoders on a CPU, on onnxruntime: they run once a prompt, where their
 * weights lie in their files, before OpenVINO would have packed them. What is not rounded to integers under int8 computes
 * in bf16 where that is to be had.
 */
export function networkArithmetic(
  name: ComponentName,
  { backend, openvino, precision }: Omit<ChosenEngine, 'reason'>,
  device: Device,
): NetworkArithmetic {
  if (name === 'vae') return { backend, precision: 'fp32', arithmetic: 'graph' }
  if (name !== 'unet' && backend === 'openvino' && device === 'cpu')
    return { backend: 'onnxruntime', precision: 'fp32', arithmetic: 'graph' }
  if (precision === 'fp16') {
    return backend === 'openvino'
      ? { backend, precision: 'fp32', arithmetic: 'fp16' }
      : { backend, precision: 'fp16', arithmetic: 'graph' }
  }
  // Stored and emitted in bf16, half as many bytes are read and packed as of an fp32 graph that is rounded on the way.
  if (precision === 'bf16' && device === 'cpu') return { backend, precision: 'bf16', arithmetic: 'bf16' }
  const hasBf16 = backend === 'openvino' && openvino !== null && 'formats' in openvino && openvino.formats.has('BF16')
  const isRounded = precision === 'bf16' || (precision === 'int8' && hasBf16)
  return { backend, precision: 'fp32', arithmetic: isRounded ? 'bf16' : 'graph' }
}
