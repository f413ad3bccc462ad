// The latents that a picture's denoising begins with: noise, a noisy picture, or noise round what is kept. Draws come from
// the picture's own stream in the order in which diffusers' pipelines make them.
import type { VaeConfig } from '#engine/models/vae-config.ts'
import type { CheckpointKind } from '#engine/weights/checkpoint.ts'
import type { TorchGenerator } from '#tensor/random.ts'
import { tensor, type Tensor } from '#tensor/tensor.ts'
import { drawLatents, encodePicture, type LatentDistribution } from './encode-picture.ts'
import type { Networks } from './networks.ts'
import type { Scheduler } from './schedulers/scheduler.ts'
import type { PipelineStart } from './start.ts'

/** A start after the VAE, the same for every picture of a batch. */
export type EncodedStart =
  | { readonly mode: 'textToImage' }
  | { readonly mode: 'imageToImage'; readonly picture: LatentDistribution }
  | {
      readonly mode: 'inpaint'
      /** Null where only an inpainting UNet works, from pure noise: it never sees the whole picture. */
      readonly picture: LatentDistribution | null
      /** The picture with the area to paint greyed, for an inpainting UNet. */
      readonly maskedPicture: LatentDistribution | null
      /** (1, 1, h, w) */
      readonly latentMask: Tensor
    }

/** What a UNet that knows nothing of masks is held to: outside the mask, the picture with the noise of the moment. */
export type KeptArea = {
  /** 1 where to paint, 0 elsewhere; h · w values. */
  readonly mask: Float32Array
  /** Scaled latents of the picture, and the noise that was drawn for them. */
  readonly picture: Float32Array
  readonly noise: Float32Array
}

/** How one picture begins. */
export type PreparedLatents = {
  /** (1, C, h, w), at the noise level of the first evaluation. */
  readonly latents: Tensor
  readonly kept: KeptArea | null
  /** Mask and masked picture's latents, (1, 1 + C, h, w), which an inpainting UNet sees behind the noisy latents. */
  readonly maskChannels: Tensor | null
}

/** Who denoises, by kind, and whether a base model does the first part of it. */
export type PreparePlan = {
  /** The kind of the model that does the first evaluation. */
  readonly kind: CheckpointKind
  readonly hasSecondStage: boolean
  readonly strength: number
}

/** Encode what a task starts from; throws `not_finite` where the VAE gives no numbers. */
export async function encodeStart(
  networks: Networks,
  config: VaeConfig,
  start: PipelineStart,
  plan: PreparePlan,
): Promise<EncodedStart> {
  if (start.mode === 'textToImage') return start
  const encode = (image: Tensor): Promise<LatentDistribution> => encodePicture(networks, config, image)
  if (start.mode === 'imageToImage') return { mode: start.mode, picture: await encode(start.image) }
  const { image, latentMask, mask } = start
  const inpainting = plan.kind === 'inpainting'
  const needsPicture = !inpainting || plan.hasSecondStage || plan.strength < 1
  return {
    mode: start.mode,
    picture: needsPicture ? await encode(image) : null,
    maskedPicture: inpainting ? await encode(greyed(image, mask)) : null,
    latentMask,
  }
}

/** Draw one picture's first latents; `begin` is the first evaluation of `scheduler`'s run. */
export function prepareLatents(
  config: VaeConfig,
  start: EncodedStart,
  plan: PreparePlan,
  shape: readonly number[],
  scheduler: Scheduler,
  begin: number,
  generator: TorchGenerator,
): PreparedLatents {
  const pureNoise = (noise: Tensor): Tensor =>
    tensor(
      shape,
      noise.data.map((value) => value * scheduler.initNoiseSigma),
    )
  const noisy = (picture: Tensor, noise: Tensor): Tensor => {
    const latents = tensor(shape, new Float32Array(noise.data.length))
    scheduler.addNoise(picture.data, noise.data, begin, latents.data)
    return latents
  }
  switch (start.mode) {
    case 'textToImage':
      return { latents: pureNoise(generator.randn(shape)), kept: null, maskChannels: null }
    case 'imageToImage': {
      const picture = drawLatents(config, start.picture, generator)
      return { latents: noisy(picture, generator.randn(shape)), kept: null, maskChannels: null }
    }
    case 'inpaint': {
      const fromNoise = plan.strength === 1
      const drawFirst = plan.kind !== 'inpainting' || !fromNoise
      let picture = drawFirst ? drawLatents(config, start.picture!, generator) : null
      const noise = generator.randn(shape)
      const latents = fromNoise ? pureNoise(noise) : noisy(picture!, noise)
      // The reference encodes the masked picture for every UNet: one that does not see it skips its part of the stream.
      const masked = start.maskedPicture ? drawLatents(config, start.maskedPicture, generator) : null
      if (!masked) generator.randn(shape)
      if (start.picture) picture ??= drawLatents(config, start.picture, generator)
      const mask = start.latentMask
      return {
        latents,
        kept: picture && { mask: mask.data, picture: picture.data, noise: noise.data },
        maskChannels: masked && behindEachOther(mask, masked),
      }
    }
    default:
      return start satisfies never
  }
}

/** The picture with 0, a middle grey, where it is to be painted. */
function greyed(image: Tensor, mask: Tensor): Tensor {
  const plane = mask.data.length
  return tensor(
    image.shape,
    image.data.map((value, i) => (mask.data[i % plane] < 0.5 ? value : 0)),
  )
}

/** (1, A, h, w) and (1, B, h, w) → (1, A + B, h, w) */
function behindEachOther(a: Tensor, b: Tensor): Tensor {
  const data = new Float32Array(a.data.length + b.data.length)
  data.set(a.data)
  data.set(b.data, a.data.length)
  return tensor([1, a.shape[1] + b.shape[1], ...a.shape.slice(2)], data)
}
