// The models of tools/reference/mode_models.py: a refiner, and tiny-a with a UNet of nine channels.
import { cp } from 'node:fs/promises'
import { join } from 'node:path'
import { goldenFolder } from './golden.ts'
import { tinyModels } from './tiny-b-single-file.ts'

/** The folder of a refiner that fits tiny-a. */
export const tinyRefiner = join(goldenFolder, 'mode-models/tiny-refiner')

/** Write tiny-a with the inpainting UNet below `folder`; returns the model's folder. */
export async function writeTinyInpaint(folder: string): Promise<string> {
  const model = join(folder, 'tiny-inpaint')
  const unet = join(tinyModels, 'tiny-a/unet')
  await cp(join(tinyModels, 'tiny-a'), model, { recursive: true, filter: (source) => source !== unet })
  await cp(join(goldenFolder, 'mode-models/tiny-inpaint/unet'), join(model, 'unet'), { recursive: true })
  return model
}
