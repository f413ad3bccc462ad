// Which networks a task needs of its checkpoints, and whether they fit the task and each other.
import type { DenoiserModel, PipelineModel } from '#diffusion/networks.ts'
import { ClipTokenizer } from '#diffusion/prompt/tokenizer.ts'
import { vaeScaleFactor, type VaeConfig } from '#engine/models/vae-config.ts'
import type { Checkpoint, Component } from '#engine/weights/checkpoint.ts'
import { AppError } from '../errors.ts'
import type { TaskStart } from './protocol.ts'

/** The models of a task: what the pipeline knows of them, and the VAE, which the refiner shares. */
export type TaskModel = {
  readonly pipeline: PipelineModel
  readonly vae: Component<VaeConfig>
}

/**
 * What the pipeline needs of a base or inpainting model and of a refiner. Throws `wrong_architecture` when they cannot
 * do what `mode` asks for, or do not fit each other.
 */
export function taskModel(checkpoint: Checkpoint, refiner: Checkpoint | null, mode: TaskStart['mode']): TaskModel {
  const { kind, path, textEncoder, tokenizer, unet, vae } = checkpoint
  const cannot = (reason: string): AppError =>
    new AppError('wrong_architecture', `model ${path}: ${reason}`, { field: 'checkpoint' })
  if (kind === 'refiner') throw cannot('this is a refiner, which goes on from a base model and cannot start from text')
  if (kind === 'inpainting' && mode !== 'inpaint' && mode !== 'outpaint')
    throw cannot('this is an inpainting model, which needs a picture and a mask')
  if (!textEncoder || !tokenizer) throw cannot('it has no first text encoder')
  if (!vae) throw cannot('there is no VAE in it')
  if (vae.config.latentChannels !== unet.config.outChannels)
    throw cannot(
      `its VAE has ${vae.config.latentChannels} latent channels and its UNet makes ${unet.config.outChannels}`,
    )
  const pipeline = {
    ...denoiserModel(checkpoint),
    vaeConfig: vae.config,
    refiner: refiner && refinerModel(refiner, vae.config),
  }
  return { pipeline, vae }
}

/** The refiner, if it goes on with the latents of the base model's VAE. */
function refinerModel(checkpoint: Checkpoint, vae: VaeConfig): DenoiserModel {
  const { kind, path, unet } = checkpoint
  const cannot = (reason: string): AppError =>
    new AppError('wrong_architecture', `refiner ${path}: ${reason}`, { field: 'refiner' })
  if (kind !== 'refiner') throw cannot(`this is no refiner, but ${kind === 'base' ? 'a base' : 'an inpainting'} model`)
  if (unet.config.inChannels !== vae.latentChannels)
    throw cannot(`it takes ${unet.config.inChannels} latent channels and the model's VAE makes ${vae.latentChannels}`)
  const own = checkpoint.vae?.config
  if (own && vaeScaleFactor(own) !== vaeScaleFactor(vae))
    throw cannot(`its VAE makes ${vaeScaleFactor(own)} pixels of a latent and the model's ${vaeScaleFactor(vae)}`)
  if (own && scalingOf(own) !== scalingOf(vae))
    throw cannot(`its latents are scaled by ${own.scalingFactor} and the model's by ${vae.scalingFactor}, or shifted`)
  return denoiserModel(checkpoint)
}

/** Everything that tells the VAE's latents from those that the UNet works on. */
function scalingOf({ latentsMean, latentsStd, scalingFactor, shiftFactor }: VaeConfig): string {
  return JSON.stringify([scalingFactor, shiftFactor, latentsMean, latentsStd])
}

/** What the pipeline needs to know of one checkpoint's text encoders, UNet and schedule. */
export function denoiserModel(checkpoint: Checkpoint): DenoiserModel {
  const { forceZerosForEmptyPrompt, kind, scheduler, textEncoder, textEncoder2, tokenizer, tokenizer2, unet } =
    checkpoint
  return {
    kind,
    textConfig: textEncoder?.config ?? null,
    textConfig2: textEncoder2.config,
    unetConfig: unet.config,
    tokenizer: tokenizer && new ClipTokenizer(tokenizer),
    tokenizer2: new ClipTokenizer(tokenizer2),
    scheduler,
    forceZerosForEmptyPrompt,
  }
}
