// The VAE and the textual inversions of a task, opened and held against its models.
import type { PromptInversion } from '#diffusion/prompt/trigger-words.ts'
import type { VaeConfig } from '#engine/models/vae-config.ts'
import type { Checkpoint, Component } from '#engine/weights/checkpoint.ts'
import { inversionWidthsOf, openTextualInversion } from '#engine/weights/textual-inversion.ts'
import { latentSpaceOf, openVaeFile, standardLatentSpace } from '#engine/weights/vae-file.ts'
import { AppError } from '../errors.ts'
import type { ContentHash, GenerateTask, TaskFiles } from './protocol.ts'

/**
 * The VAE that a task names, for the latents of its model; null where it names none. Throws `wrong_architecture` with the
 * field `vae` when the file is another one or makes other latents.
 */
export async function openTaskVae(
  { vae }: GenerateTask,
  files: TaskFiles,
  { path, unet, vae: own }: Checkpoint,
): Promise<Component<VaeConfig> | null> {
  if (vae === null) return null
  const words = `the model ${path}`
  const latents = own
    ? latentSpaceOf(own.config, words)
    : { ...standardLatentSpace, latentChannels: unet.config.outChannels, words }
  return await named('vae', () => openVaeFile(pathOf(files, vae, 'vae'), latents))
}

/**
 * The vectors that words of a task's prompts stand for. Throws `wrong_architecture` with the field `textualInversions`
 * when they do not fit the text encoders of the model, or of the refiner.
 */
export async function openTaskInversions(
  { textualInversions }: GenerateTask,
  files: TaskFiles,
  checkpoint: Checkpoint,
  refiner: Checkpoint | null,
): Promise<PromptInversion[]> {
  const field = 'textualInversions'
  const inversions: PromptInversion[] = []
  for (const { asset, trigger } of textualInversions) {
    const path = pathOf(files, asset, field)
    const vectors = await named(field, () => openTextualInversion(path, inversionWidthsOf(checkpoint)))
    const [width, refinerWidth] = [vectors.second[0].length, refiner?.textEncoder2.config.hiddenSize]
    if (refinerWidth !== undefined && refinerWidth !== width)
      throw new AppError(
        'wrong_architecture',
        `textual inversion ${path}: its vectors have ${width} channels, the refiner's text encoder ${refinerWidth}`,
        { field },
      )
    inversions.push({ trigger, ...vectors })
  }
  return inversions
}

function pathOf({ assets }: TaskFiles, hash: ContentHash, field: string): string {
  const path = assets[hash]
  if (path === undefined) throw new AppError('internal', `${field}: the task names ${hash} and no file is given`)
  return path
}

/** Errors with the task's field that is at fault. */
async function named<T>(field: string, open: () => Promise<T>): Promise<T> {
  try {
    return await open()
  } catch (error) {
    if (!(error instanceof AppError)) throw error
    throw new AppError(error.code, error.message, { cause: error, field })
  }
}
