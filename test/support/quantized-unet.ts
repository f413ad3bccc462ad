// A UNet's weights rounded to 8-bit integers in a folder of the running test.
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import type { Quantization } from '#engine/quantize/quantization.ts'
import { quantizeWeights, type ChangedWeights } from '#engine/quantize/quantized-weights.ts'
import type { Checkpoint, GraphWeights } from '#engine/weights/checkpoint.ts'
import { componentHash } from '#engine/weights/hash.ts'
import { temporaryFolder } from './temporary-folder.ts'

export async function quantizedUNet(
  { unet }: Checkpoint,
  quantization: Quantization,
  changed?: ChangedWeights,
): Promise<GraphWeights> {
  const cacheDir = await temporaryFolder('int8')
  const scratchDir = join(cacheDir, 'scratch')
  await mkdir(scratchDir)
  const hash = await componentHash(unet, { cacheDir, scratchDir })
  const prepared = await quantizeWeights(unet, hash, { cacheDir, scratchDir, limitBytes: 1e12, quantization }, changed)
  onTestFinished(() => prepared[Symbol.dispose]())
  return prepared.weights
}
