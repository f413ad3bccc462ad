// tiny-b with a UNet of hundreds of megabytes, all zeros, for tests that interrupt what takes a while. The weights are a
// hole in a file: they take no space until they are converted.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expectedUNetTensors } from '#engine/weights/expected-tensors.ts'
import { unetConfigOf } from '#engine/weights/unet-options.ts'
import { copyTinyModel, editJson, saveHole } from './model-files.ts'

/** A folder with a UNet of 100 million parameters in `dtype`; it lives as long as the running test. */
export async function copyLargeModel(dtype: 'F16' | 'F32'): Promise<string> {
  const folder = await copyTinyModel('tiny-b')
  const file = join(folder, 'unet/config.json')
  await editJson(file, { block_out_channels: [320, 640, 640], attention_head_dim: [5, 10, 10] })
  const values = JSON.parse(await readFile(file, 'utf8')) as Record<string, unknown>
  const shapes = expectedUNetTensors(unetConfigOf({ file, values }))
  const weights = join(folder, 'unet/diffusion_pytorch_model.safetensors')
  await saveHole(weights, Object.fromEntries(shapes), {}, () => dtype)
  return folder
}
