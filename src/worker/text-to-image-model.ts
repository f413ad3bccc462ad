import type { PipelineModel } from '#diffusion/networks.ts'
import { ClipTokenizer } from '#diffusion/prompt/tokenizer.ts'
import type { ClipTextConfig } from '#engine/models/clip-text-config.ts'
import type { VaeConfig } from '#engine/models/vae-config.ts'
import type { Checkpoint, Component } from '#engine/weights/checkpoint.ts'
import { AppError } from '../errors.ts'

/** A checkpoint that has everything that a picture from text alone needs. */
export type TextToImageModel = {
  readonly pipeline: PipelineModel
  readonly textEncoder: Component<ClipTextConfig>
  readonly vae: Component<VaeConfig>
}

/** What the pipeline needs of a checkpoint; throws `wrong_architecture` when it cannot make a picture from text alone. */
export function textToImageModel(checkpoint: Checkpoint): TextToImageModel {
  const { kind, path, textEncoder, textEncoder2, tokenizer, tokenizer2, unet, vae } = checkpoint
  const cannot = (reason: string): AppError => new AppError('wrong_architecture', `model ${path}: ${reason}`)
  if (kind === 'refiner') throw cannot('this is a refiner, which goes on from a base model and cannot start from text')
  if (kind === 'inpainting') throw cannot('this is an inpainting model, which needs a picture and a mask')
  if (!textEncoder || !tokenizer) throw cannot('it has no first text encoder')
  if (!vae) throw cannot('there is no VAE in it')
  if (vae.config.latentChannels !== unet.config.inChannels)
    throw cannot(
      `its VAE has ${vae.config.latentChannels} latent channels and its UNet takes ${unet.config.inChannels}`,
    )
  const pipeline = {
    textConfig: textEncoder.config,
    textConfig2: textEncoder2.config,
    unetConfig: unet.config,
    vaeConfig: vae.config,
    tokenizer: new ClipTokenizer(tokenizer),
    tokenizer2: new ClipTokenizer(tokenizer2),
    scheduler: checkpoint.scheduler,
    forceZerosForEmptyPrompt: checkpoint.forceZerosForEmptyPrompt,
  }
  return { pipeline, textEncoder, vae }
}
