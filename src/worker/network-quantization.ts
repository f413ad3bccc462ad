// Which layers of a network compute in 8-bit integers under the chosen precision and backend.
import { calibratedLayers, readCalibration, type CalibrationSettings } from '#engine/quantize/calibration-file.ts'
import { dynamicLayers, type Quantization } from '#engine/quantize/quantization.ts'
import { machineWeightLimit } from '#engine/quantize/weight-limit.ts'
import type { Component } from '#engine/weights/checkpoint.ts'
import type { UNetConfig } from '#engine/models/unet-config.ts'
import { AppError } from '../errors.ts'
import type { EngineChoice } from './protocol.ts'

/** What a network is calibrated with: prompts of different kinds, and the noise levels of a short run. */
const calibrationPrompts = [
  'a photograph of a red apple on a wooden table',
  'an oil painting of a ship in a storm, birds',
  'a mountain lake at sunset, wide view',
  'black and white portrait of an old man, high contrast',
]
const numInferenceSteps = 4
const guidanceScale = 7
/** Latent rows and columns: what the small networks are trained at, and a quarter of the pixels of SDXL's own size. */
const latentEdges = { small: 32, large: 64 } as const
const smallChannels = 640

/** How a UNet is calibrated on this machine. */
export async function calibrationSettings({ downBlocks }: UNetConfig): Promise<CalibrationSettings> {
  const isSmall = downBlocks.every(({ channels }) => channels < smallChannels)
  return {
    prompts: calibrationPrompts,
    numInferenceSteps,
    guidanceScale,
    latentEdge: isSmall ? latentEdges.small : latentEdges.large,
    weightLimit: await machineWeightLimit(),
  }
}

/** Whether a choice needs the ranges of a UNet's values beforehand: onnxruntime's kernels find their own as they come. */
export function needsCalibration({ backend, precision }: EngineChoice): boolean {
  return precision === 'int8' && backend === 'openvino'
}

/**
 * Backend and content hash of a UNet → how it is quantised, asked for at every picture. In the order of use, the most
 * recent last: at real size each takes megabytes.
 */
const quantizations = new Map<string, Quantization>()
const maxQuantizations = 4

/** Whether it is known how a UNet is quantised, so that no calibration need be looked for. */
export function isQuantizationKnown(hash: string, choice: EngineChoice): boolean {
  return quantizations.has(keyOf(hash, choice))
}

function keyOf(hash: string, { backend }: EngineChoice): string {
  return `${backend} ${hash}`
}

/** How a component is quantised: a UNet in int8, everything else not at all. */
export async function networkQuantization(
  { config, name, weights }: Component<object>,
  hash: string,
  choice: EngineChoice,
  cacheDir: string,
): Promise<Quantization | undefined> {
  if (choice.precision !== 'int8' || name !== 'unet') return undefined
  const key = keyOf(hash, choice)
  const found = quantizations.get(key) ?? (await quantizationFor({ config, name, weights }, hash, choice, cacheDir))
  quantizations.delete(key)
  quantizations.set(key, found)
  for (const oldest of quantizations.keys()) {
    if (quantizations.size <= maxQuantizations) break
    quantizations.delete(oldest)
  }
  return found
}

async function quantizationFor(
  { config, weights }: Component<object>,
  hash: string,
  choice: EngineChoice,
  cacheDir: string,
): Promise<Quantization> {
  if (!needsCalibration(choice))
    return { layers: dynamicLayers(weights), weightLayout: 'columns', weightLimit: await machineWeightLimit() }
  const settings = await calibrationSettings(config as UNetConfig)
  const calibration = await readCalibration(cacheDir, hash, settings)
  if (!calibration) throw new AppError('internal', 'int8: the UNet is loaded before it was calibrated')
  return { layers: calibratedLayers(calibration), weightLayout: 'rows', weightLimit: settings.weightLimit }
}
