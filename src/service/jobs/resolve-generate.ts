// From what a client asks to one resolved task: seeds chosen, the style applied, the mode decided, pictures named by
// their hashes. Nothing after this reads the order again.
import { createHash, randomInt } from 'node:crypto'
import { requireSteps, samplers } from '#diffusion/samplers.ts'
import { applyStyle } from '#diffusion/style-presets.ts'
import type { ContentHash, GenerateTask, TaskStart } from '#worker/protocol.ts'
import { AppError } from '../../errors.ts'
import { noAssets, type ResolvedAssets } from '../assets/resolve-assets.ts'
import type { PriceInput } from '../billing/price.ts'
import type { GenerateOrder } from './generate-order.ts'

/** What of the surroundings decides about a task. */
export type ResolveContext = {
  /** Whether the deployment has a refiner. */
  readonly refiner: boolean
  readonly previews: boolean
  /** What the order's references stand for; none when left out. */
  readonly assets?: ResolvedAssets
  /** A number in 0..limit−1. */
  readonly random?: (limit: number) => number
}

/** A task, the pictures that it names, what it costs, and which wishes have no effect here. */
export type ResolvedGenerate = {
  readonly task: GenerateTask
  readonly inputs: ReadonlyMap<ContentHash, Uint8Array>
  readonly price: PriceInput
  /** Keys of the order. */
  readonly notApplied: readonly string[]
}

const seedCount = 2 ** 32

/** Throws `bad_argument` for combinations that cannot be. */
export function resolveGenerate(order: GenerateOrder, context: ResolveContext): ResolvedGenerate {
  requireSteps(order.sampler, order.numInferenceSteps)
  const inputs = new Map<ContentHash, Uint8Array>()
  const start = startOf(order, inputs)
  const random = context.random ?? randomInt
  const { numInferenceSteps, sampler, width, height } = order
  const task: GenerateTask = {
    ...styledPrompts(order),
    width,
    height,
    numInferenceSteps,
    guidanceScale: order.guidanceScale,
    sampler,
    seeds: order.seeds.map((seed) => seed ?? random(seedCount)),
    clipSkip: order.clipSkip,
    start,
    refiner:
      order.useRefiner && context.refiner && order.denoisingEnd < 1 ? { denoisingEnd: order.denoisingEnd } : null,
    ...(context.assets ?? noAssets),
    previews: context.previews,
    imageEncoding: order.imageEncoding,
  }
  const notApplied = [
    ...(order.useRefiner && !context.refiner && order.denoisingEnd < 1 ? ['useRefiner'] : []),
    ...(order.enableSafety ? ['enableSafety'] : []),
  ]
  const price: PriceInput = {
    steps: numInferenceSteps,
    width,
    height,
    premium: samplers[sampler].premium,
    custom: isCustom(task),
    controlnet: false,
    photoMerge: false,
    images: order.seeds.length,
  }
  return { task, inputs, price, notApplied }
}

function isCustom({ checkpoint, vae, loras, textualInversions }: ResolvedAssets): boolean {
  return checkpoint !== null || vae !== null || loras.length > 0 || textualInversions.length > 0
}

function styledPrompts(
  order: GenerateOrder,
): Pick<GenerateTask, 'prompt' | 'prompt2' | 'negativePrompt' | 'negativePrompt2'> {
  const { prompt, prompt2, negativePrompt, negativePrompt2 } = order
  const prompts = { prompt, prompt2, negativePrompt, negativePrompt2 }
  return order.stylePreset === null ? prompts : applyStyle(order.stylePreset, prompts)
}

function startOf(order: GenerateOrder, inputs: Map<ContentHash, Uint8Array>): TaskStart {
  const { initImage, maskImage, strength } = order
  if (maskImage && !initImage)
    throw new AppError('bad_argument', 'maskImage: needs an initImage', { field: 'maskImage' })
  if (order.outpainting && !maskImage)
    throw new AppError('bad_argument', 'outpainting: needs initImage and maskImage', { field: 'outpainting' })
  if (order.inpaintFullRes && !maskImage)
    throw new AppError('bad_argument', 'inpaintFullRes: needs initImage and maskImage', { field: 'inpaintFullRes' })
  if (!initImage) return { mode: 'textToImage' }
  if (Math.floor(order.numInferenceSteps * strength) < 1)
    throw new AppError(
      'bad_argument',
      `strength: ${strength} of ${order.numInferenceSteps} steps is less than one step`,
      { field: 'strength' },
    )
  const image = keep(initImage, inputs)
  if (!maskImage) return { mode: 'imageToImage', image, strength }
  const mask = keep(maskImage, inputs)
  if (order.outpainting) return { mode: 'outpaint', image, mask, strength }
  const fullResPadding = order.inpaintFullRes ? order.inpaintFullResPadding : null
  return { mode: 'inpaint', image, mask, strength, fullResPadding }
}

function keep(bytes: Uint8Array, inputs: Map<ContentHash, Uint8Array>): ContentHash {
  const hash = createHash('sha256').update(bytes).digest('hex')
  inputs.set(hash, bytes)
  return hash
}

/** Hashes of the pictures that a task starts from. */
export function picturesOf({ start }: Pick<GenerateTask, 'start'>): readonly ContentHash[] {
  switch (start.mode) {
    case 'textToImage':
      return []
    case 'imageToImage':
      return [start.image]
    case 'inpaint':
    case 'outpaint':
      return [...new Set([start.image, start.mask])]
    default:
      throw new AppError('internal', `unknown mode ${JSON.stringify(start satisfies never)}`)
  }
}
