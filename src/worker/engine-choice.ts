// What `auto` stands for on this machine, and whether what was asked for can be had.
import { backendDevices, type Arithmetic, type FloatFormat, type Precision } from '#engine/backend.ts'
import type { ComponentName } from '#engine/weights/checkpoint.ts'
import { AppError } from '../errors.ts'
import type { EngineChoice, EngineSettings } from './protocol.ts'

/** How one network takes part in a precision: what its graph is emitted in, and how its session computes. */
export type NetworkArithmetic = { readonly precision: FloatFormat; readonly arithmetic: Arithmetic }

/** Resolve backend and precision. Throws `device_unavailable` for what this machine cannot do. */
export async function chooseEngine({ backend, device, precision }: EngineSettings): Promise<EngineChoice> {
  if (backend === 'openvino' || precision === 'bf16' || precision === 'int8')
    throw new AppError('device_unavailable', 'backend: OpenVINO is not supported yet')
  const known: readonly string[] = backendDevices.onnxruntime
  if (!known.includes(device))
    throw new AppError('device_unavailable', `device ${device}: onnxruntime knows ${known.join(', ')}`)
  return { backend: 'onnxruntime', precision: precision === 'auto' ? 'fp32' : precision }
}

/** SDXL's VAE overflows in fp16 and takes little of the time: it stays in fp32. */
export function networkArithmetic(name: ComponentName, precision: Precision): NetworkArithmetic {
  return { precision: precision === 'fp16' && name !== 'vae' ? 'fp16' : 'fp32', arithmetic: 'graph' }
}
