import { addEmbeds } from '#engine/models/time-embedding.ts'
import type { UNet, UNetConditioning } from '#engine/networks/unet.ts'
import { tensor, type Tensor } from '#tensor/tensor.ts'
import type { EncodedPrompts, PromptEmbeds } from './encode-prompt.ts'

/** How the two noise predictions of classifier-free guidance are had. */
export type Guidance = {
  readonly guidanceScale: number
  readonly unet: UNet
  /** One entry a run of the UNet: [both], [negative, positive], or [positive] without guidance. */
  readonly conditionings: readonly UNetConditioning[]
}

/** Conditioning of the UNet for a picture of `timeIds` (original height and width, crop top and left, target height and width). */
export function prepareGuidance(
  unet: UNet,
  { positive, negative }: EncodedPrompts,
  timeIds: readonly number[],
  guidanceScale: number,
): Guidance {
  const conditioning = (prompts: readonly PromptEmbeds[]): UNetConditioning => ({
    promptEmbeds: stack(prompts.map((prompt) => prompt.promptEmbeds)),
    addEmbeds: addEmbeds(
      unet.config,
      stack(prompts.map((prompt) => prompt.pooledPromptEmbeds)),
      prompts.map(() => timeIds),
    ),
  })
  if (!negative) return { guidanceScale, unet, conditionings: [conditioning([positive])] }
  const conditionings =
    unet.batch === 2 ? [conditioning([negative, positive])] : [conditioning([negative]), conditioning([positive])]
  return { guidanceScale, unet, conditionings }
}

/**
 * Noise prediction with classifier-free guidance (arXiv 2207.12598): the unconditional one, plus the scaled way from
 * there to the conditional one. (1, C, H, W) → (1, outChannels, H, W)
 */
export async function guidedNoise(
  { guidanceScale, unet, conditionings }: Guidance,
  sample: Tensor,
  timestep: number,
): Promise<Tensor> {
  if (conditionings.length === 2) {
    const uncond = await unet.predict(sample, timestep, conditionings[0])
    return guide(uncond, await unet.predict(sample, timestep, conditionings[1]), guidanceScale)
  }
  const conditioning = conditionings[0]
  if (unet.batch === 1) return await unet.predict(sample, timestep, conditioning)
  const both = await unet.predict(stack([sample, sample]), timestep, conditioning)
  return guide(half(both, 0), half(both, 1), guidanceScale)
}

/** Writes the guided prediction over the unconditional one. */
function guide(uncond: Tensor, text: Tensor, scale: number): Tensor {
  const { data } = uncond
  for (let i = 0; i < data.length; i++) data[i] += Math.fround(scale * Math.fround(text.data[i] - data[i]))
  return uncond
}

/** n × (1, …) → (n, …) */
function stack(tensors: readonly Tensor[]): Tensor {
  const size = tensors[0].data.length
  const data = new Float32Array(tensors.length * size)
  tensors.forEach((item, index) => data.set(item.data, index * size))
  return tensor([tensors.length, ...tensors[0].shape.slice(1)], data)
}

function half(both: Tensor, index: 0 | 1): Tensor {
  const size = both.data.length / 2
  return tensor([1, ...both.shape.slice(1)], both.data.subarray(index * size, (index + 1) * size))
}
