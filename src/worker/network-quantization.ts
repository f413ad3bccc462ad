// Which layers of a network compute in 8-bit integers under the chosen precision and backend.
import { dynamicLayers, type Quantization } from '#engine/quantize/quantization.ts'
import { machineWeightLimit } from '#engine/quantize/weight-limit.ts'
import type { Component } from '#engine/weights/checkpoint.ts'
import type { EngineChoice } from './protocol.ts'

/** How a component is quantised: a UNet in int8, everything else not at all. */
export async function networkQuantization(
  { name, weights }: Component<object>,
  { precision }: EngineChoice,
): Promise<Quantization | undefined> {
  if (precision !== 'int8' || name !== 'unet') return undefined
  return { layers: dynamicLayers(weights), weightLayout: 'columns', weightLimit: await machineWeightLimit() }
}
