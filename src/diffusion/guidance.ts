import { addEmbeds } from '#engine/models/time-embedding.ts'
import type { UNet, UNetConditioning } from '#engine/networks/unet.ts'
import type { CheckpointKind } from '#engine/weights/checkpoint.ts'
import { tensor, type Tensor } from '#tensor/tensor.ts'
import type { EncodedPrompts, PromptEmbeds } from './encode-prompt.ts'

/** How the two noise predictions of classifier-free guidance are had. */
export type Guidance = {
  readonly guidanceScale: number
  readonly unet: UNet
  /** One entry a run of the UNet: [both], [negative, positive], or [positive] without guidance. */
  readonly conditionings: readonly UNetConditioning[]
  /** Holds the input twice where both predictions share a run; made at the first one. */
  doubled: Tensor | null
}

/** Numbers that the UNet was told of its pictures in training, one list for each prompt. */
export type TimeIds = { readonly positive: readonly number[]; readonly negative: readonly number[] }

/** The aesthetic scores that a refiner is told, as diffusers has them. */
const aestheticScores = { positive: 6, negative: 2.5 } as const

/**
 * Time ids of a whole picture in pixels: original height and width, crop from the top and left, target height and width
 * (arXiv 2307.01952, section 2.2); a refiner has an aesthetic score in place of the target.
 */
export function timeIdsOf(kind: CheckpointKind, height: number, width: number): TimeIds {
  const placed = [height, width, 0, 0]
  if (kind === 'refiner')
    return { positive: [...placed, aestheticScores.positive], negative: [...placed, aestheticScores.negative] }
  const ids = [...placed, height, width]
  return { positive: ids, negative: ids }
}

/** Conditioning of the UNet for prompts and time ids. */
export function prepareGuidance(
  unet: UNet,
  { positive, negative }: EncodedPrompts,
  timeIds: TimeIds,
  guidanceScale: number,
): Guidance {
  const conditioning = (prompts: readonly (readonly [PromptEmbeds, readonly number[]])[]): UNetConditioning => ({
    promptEmbeds: stack(prompts.map(([{ promptEmbeds }]) => promptEmbeds)),
    addEmbeds: addEmbeds(
      unet.config,
      stack(prompts.map(([{ pooledPromptEmbeds }]) => pooledPromptEmbeds)),
      prompts.map(([, ids]) => ids),
    ),
  })
  const wanted = [positive, timeIds.positive] as const
  if (!negative) return { guidanceScale, unet, conditionings: [conditioning([wanted])], doubled: null }
  const unwanted = [negative, timeIds.negative] as const
  const conditionings =
    unet.batch === 2 ? [conditioning([unwanted, wanted])] : [conditioning([unwanted]), conditioning([wanted])]
  return { guidanceScale, unet, conditionings, doubled: null }
}

/**
 * Noise prediction with classifier-free guidance (arXiv 2207.12598): the unconditional one, plus the scaled way from
 * there to the conditional one. (1, C, H, W) → (1, outChannels, H, W)
 */
export async function guidedNoise(guidance: Guidance, sample: Tensor, timestep: number): Promise<Tensor> {
  const { guidanceScale, unet, conditionings } = guidance
  if (conditionings.length === 2) {
    const uncond = await unet.predict(sample, timestep, conditionings[0])
    return guide(uncond, await unet.predict(sample, timestep, conditionings[1]), guidanceScale)
  }
  const conditioning = conditionings[0]
  if (unet.batch === 1) return await unet.predict(sample, timestep, conditioning)
  const { length } = sample.data
  guidance.doubled ??= tensor([2, ...sample.shape.slice(1)], new Float32Array(2 * length))
  guidance.doubled.data.set(sample.data)
  guidance.doubled.data.set(sample.data, length)
  const both = await unet.predict(guidance.doubled, timestep, conditioning)
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
