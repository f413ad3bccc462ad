// Do the networks of a checkpoint belong together, and what do they make?
import { AppError } from '../../errors.ts'
import type { Checkpoint, CheckpointKind } from './checkpoint.ts'

/** Time ids: original size, crop and target size; the refiner has an aesthetic score in place of the target size. */
export const timeIdCounts = { base: 6, inpainting: 6, refiner: 5 } as const satisfies Record<CheckpointKind, number>

/** The kind of a model by its networks. Throws `wrong_architecture` when their widths do not fit each other. */
export function checkpointKind(
  path: string,
  { textEncoder, textEncoder2, unet, vae }: Pick<Checkpoint, 'textEncoder' | 'textEncoder2' | 'unet' | 'vae'>,
): CheckpointKind {
  const wrong = (problem: string): AppError => new AppError('wrong_architecture', `model ${path}: ${problem}`)
  const { inChannels, outChannels, crossAttentionDim, additionTimeEmbedDim, addEmbeddingInputDim } = unet.config
  const textWidth = (textEncoder?.config.hiddenSize ?? 0) + textEncoder2.config.hiddenSize
  if (textWidth !== crossAttentionDim)
    throw wrong(`the UNet attends to ${crossAttentionDim} channels of text, the text encoders give ${textWidth}`)
  if (vae !== null && vae.config.latentChannels !== outChannels)
    throw wrong(`the UNet makes ${outChannels} latent channels, the VAE takes ${vae.config.latentChannels}`)

  const kind = textEncoder === null ? 'refiner' : inChannels === outChannels ? 'base' : 'inpainting'
  // Inpainting sees the noisy latents, the mask and the masked picture's latents.
  const wanted = kind === 'inpainting' ? outChannels * 2 + 1 : outChannels
  if (inChannels !== wanted)
    throw wrong(
      `the UNet takes ${inChannels} channels and makes ${outChannels}; supported: as many, or twice as many and one (inpainting)`,
    )
  const pooled = textEncoder2.config.projectionDim ?? 0
  if (addEmbeddingInputDim !== pooled + additionTimeEmbedDim * timeIdCounts[kind])
    throw wrong(
      `add_embedding takes ${addEmbeddingInputDim} values, expected ${pooled} of pooled text and ${timeIdCounts[kind]} time ids of ${additionTimeEmbedDim} (${kind})`,
    )
  return kind
}
