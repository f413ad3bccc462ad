// Text to image, from prompts and seeds to pictures. Every picture has its own random stream and its own scheduler run,
// so that it is the same whether it is made alone or with others.
import { vaeScaleFactor } from '#engine/models/vae-config.ts'
import { TorchGenerator } from '#tensor/random.ts'
import { tensor, type Tensor } from '#tensor/tensor.ts'
import { AppError } from '../errors.ts'
import { decodeLatents } from './decode-latents.ts'
import { denoise } from './denoise.ts'
import { checkPrompts, encodePrompts, type Prompts } from './encode-prompt.ts'
import { prepareGuidance } from './guidance.ts'
import type { Networks, PipelineModel } from './networks.ts'
import { createScheduler } from './schedulers/create-scheduler.ts'
import type { SamplerName } from './samplers.ts'

export type PipelineInput = Prompts & {
  /** Pixels; multiples of the VAE's factor. */
  readonly width: number
  readonly height: number
  readonly numInferenceSteps: number
  readonly guidanceScale: number
  readonly sampler: SamplerName
  /** One a picture. */
  readonly seeds: readonly number[]
}

/** What the pipeline is about to do, and what came out. */
export type PipelineEvent =
  | { readonly phase: 'encode' }
  | { readonly phase: 'denoise'; readonly image: number; readonly step: number; readonly of: number }
  | { readonly phase: 'decode'; readonly image: number }
  /** (1, 3, H, W), about −1..1 */
  | { readonly phase: 'done'; readonly image: number; readonly picture: Tensor }

/** Throws `bad_size`, `bad_prompt` or `bad_argument` for an order that this model cannot carry out, before any work. */
export function checkInput(model: PipelineModel, input: PipelineInput): void {
  latentSizeOf(model, input.width, input.height)
  createScheduler(input.sampler, model.scheduler, input.numInferenceSteps)
  checkPrompts(model, input)
}

/** Make one picture a seed, yielding before each phase, after each step, and each picture when it is there. */
export async function* generate(
  model: PipelineModel,
  networks: Networks,
  input: PipelineInput,
): AsyncGenerator<PipelineEvent, void> {
  const { width, height, guidanceScale, seeds } = input
  const latentSize = latentSizeOf(model, width, height)

  // 1. prompts
  yield { phase: 'encode' }
  const prompts = await encodePrompts(model, networks, input, guidanceScale > 1)

  for (const [image, seed] of seeds.entries()) {
    // 2. noise, from the picture's own stream
    const scheduler = createScheduler(input.sampler, model.scheduler, input.numInferenceSteps)
    const generator = new TorchGenerator(seed)
    const shape = [1, model.vaeConfig.latentChannels, latentSize.height, latentSize.width]
    const latents = scale(generator.randn(shape), scheduler.initNoiseSigma)
    const fresh = new Float32Array(latents.data.length)
    const noise = (): Float32Array => generator.fillNormal(fresh)

    // 3. denoise
    yield { phase: 'denoise', image, step: 0, of: scheduler.timesteps.length }
    const batch = prompts.negative ? networks.guidanceBatch : 1
    const unet = await networks.unet({ batch, ...latentSize, textLength: prompts.positive.promptEmbeds.shape[1] })
    const guidance = prepareGuidance(unet, prompts, [height, width, 0, 0, height, width], guidanceScale)
    const steps = denoise({ guidance, scheduler, latents, noise })
    let step = await steps.next()
    for (; !step.done; step = await steps.next()) yield { phase: 'denoise', image, ...step.value }

    // 4. decode
    yield { phase: 'decode', image }
    yield { phase: 'done', image, picture: await decodeLatents(networks, model.vaeConfig, step.value) }
  }
}

/** Latent rows and columns of a picture; throws `bad_size` when the VAE cannot make that size. */
function latentSizeOf(model: PipelineModel, width: number, height: number): { height: number; width: number } {
  const factor = vaeScaleFactor(model.vaeConfig)
  for (const [name, value] of Object.entries({ width, height })) {
    if (value % factor === 0) continue
    const below = Math.floor(value / factor) * factor
    const nearest = below === 0 ? `the nearest is ${factor}` : `the nearest are ${below} and ${below + factor}`
    throw new AppError(
      'bad_size',
      `${name}: ${value} is no multiple of ${factor}, which this model's VAE asks for; ${nearest}`,
    )
  }
  return { height: height / factor, width: width / factor }
}

function scale({ shape, data }: Tensor, factor: number): Tensor {
  return tensor(
    shape,
    data.map((value) => value * factor),
  )
}
