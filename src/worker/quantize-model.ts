// A model's UNet made ready for int8 before its first picture: its ranges measured where the backend needs them, its
// weights rounded into the cache folder, and a report of what that costs in exactness and on disk.
import type { Calibration } from '#engine/quantize/calibration-file.ts'
import { quantizableLayers } from '#engine/quantize/quantization.ts'
import { storedLength } from '#engine/weights/tensor-stream.ts'
import { calibrateModel } from './calibrate.ts'
import { needsCalibration, networkQuantization } from './network-quantization.ts'
import { networkWeights } from './network-weights.ts'
import type { PipelineCache } from './pipeline-cache.ts'
import type { Progress, QuantizeResult } from './protocol.ts'

/** Make the model at `path` ready for int8 on the backend of `pipelines`. Throws as a picture of it would. */
export async function quantizeModel(
  path: string,
  pipelines: PipelineCache,
  onProgress: (progress: Progress) => void,
): Promise<QuantizeResult> {
  const choice = await pipelines.choice()
  const model = await pipelines.open(path, onProgress)
  const component = model.checkpoint.unet
  const hash = model.hashes.get('unet')!
  const warnings: string[] = []
  const calibration = needsCalibration(choice)
    ? await calibrateModel(model, pipelines, onProgress, (warning) => warnings.push(warning))
    : null
  const { cacheDir, cacheLimitBytes: limitBytes, scratchDir } = pipelines.settings
  const quantization = await networkQuantization(component, hash, choice, cacheDir)
  const report = (doneBytes: number, totalBytes: number): void =>
    onProgress({ phase: 'prepare', component: component.name, doneBytes, totalBytes })
  using prepared = await networkWeights(
    { component, hash, precision: 'fp32', quantization, loras: null },
    { cacheDir, scratchDir, limitBytes, onProgress: report },
  )
  const bytesOf = (weights: typeof prepared.weights): number =>
    weights.values().reduce((sum, { source }) => sum + ('bytes' in source ? source.bytes.length : source.length), 0)
  const rounded = quantizableLayers(component.weights).filter((layer) => quantization?.layers.has(layer))
  return {
    backend: choice.backend,
    network: hash,
    sourceBytes: component.weights.values().reduce((sum, tensor) => sum + storedLength(tensor), 0),
    roundedBytes: bytesOf(prepared.weights),
    weightLimit: quantization?.weightLimit ?? 127,
    layers: calibration ? calibration.layers.map(summaryOf) : rounded.map((layer) => ({ path: layer, int8: true })),
    outputErrors: calibration?.outputErrors ?? null,
    warnings,
  }
}

/** A layer without the factors of its channels, which nobody reads. */
function summaryOf({ error, method, path, range }: Calibration['layers'][number]): QuantizeResult['layers'][number] {
  return { path, int8: range !== null, method, error }
}
