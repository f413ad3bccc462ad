// From prompts, seeds and what a picture starts from to pictures. Every picture has its own random stream and its own
// scheduler runs, so that it is the same whether it is made alone or with others.
import { vaeScaleFactor } from '#engine/models/vae-config.ts'
import { TorchGenerator } from '#tensor/random.ts'
import type { Tensor } from '#tensor/tensor.ts'
import { AppError } from '../errors.ts'
import { decodeLatents } from './decode-latents.ts'
import { denoise } from './denoise.ts'
import { checkPrompts, encodePrompts, type EncodedPrompts, type Prompts } from './encode-prompt.ts'
import { prepareGuidance, timeIdsOf } from './guidance.ts'
import type { DenoiserModel, DenoiserNetworks, Networks, PipelineModel } from './networks.ts'
import {
  encodeStart,
  prepareLatents,
  type EncodedStart,
  type PreparedLatents,
  type PreparePlan,
} from './prepare-latents.ts'
import { cleanGuess } from './preview.ts'
import type { SamplerName } from './samplers.ts'
import { createScheduler } from './schedulers/create-scheduler.ts'
import { evaluationsOf, planStages, type Stage, type Stages } from './stages.ts'
import type { PipelineStart } from './start.ts'

/** What can be checked before a picture is read or a network is loaded. */
export type PipelineOrder = Prompts & {
  /** Pixels; multiples of the VAE's factor. */
  readonly width: number
  readonly height: number
  readonly numInferenceSteps: number
  readonly guidanceScale: number
  readonly sampler: SamplerName
  /** Part of the schedule that is run, above 0 and up to 1; 1 for text to image. */
  readonly strength: number
  /** The base model's part of the schedule, 0..1, of which the refiner does the rest; null: there is no refiner. */
  readonly denoisingEnd: number | null
}

export type PipelineInput = PipelineOrder & {
  readonly start: PipelineStart
  /** One a picture. */
  readonly seeds: readonly number[]
  /** Whether each evaluation of the network tells what the clean latents may be. */
  readonly previews: boolean
}

/** What the pipeline is about to do, and what came out. */
export type PipelineEvent =
  | { readonly phase: 'encode' }
  /** The picture to start from goes through the VAE. */
  | { readonly phase: 'encodeStart' }
  | {
      readonly phase: 'denoise'
      readonly image: number
      /** Evaluations of the network that are done, of base model and refiner together. */
      readonly step: number
      readonly of: number
      /** (1, C, h, w), scaled, valid until the next event; null where previews are off or nothing is computed yet. */
      readonly clean: Tensor | null
    }
  | { readonly phase: 'decode'; readonly image: number }
  /** (1, 3, H, W), about −1..1 */
  | { readonly phase: 'done'; readonly image: number; readonly picture: Tensor }

/** One picture on its way. */
type Run = PreparedLatents & {
  readonly image: number
  /** Fills and returns unit normal noise from the picture's own stream. */
  readonly noise: () => Float32Array
}

/** What one denoiser works with, the same for every picture. */
type Denoiser = {
  readonly model: DenoiserModel
  readonly networks: DenoiserNetworks
  readonly prompts: EncodedPrompts
  readonly stage: Stage
  /** Evaluations that were done before this stage. */
  readonly done: number
}

/** Throws `bad_size`, `bad_prompt` or `bad_argument` for an order that this model cannot carry out, before any work. */
export function checkOrder(model: PipelineModel, order: PipelineOrder): void {
  latentSizeOf(model, order.width, order.height)
  const stages = planStages(model, order)
  if (stages.base) checkPrompts(model, order)
  if (stages.refiner) checkPrompts(model.refiner!, order)
}

/**
 * Make one picture a seed, yielding before each phase, after each evaluation, and each picture when it is there. With a
 * refiner the base model works on all pictures first: at real sizes memory holds one of the two.
 */
export async function* generate(
  model: PipelineModel,
  networks: Networks,
  input: PipelineInput,
): AsyncGenerator<PipelineEvent, void> {
  const { width, height, guidanceScale, seeds } = input
  const latentSize = latentSizeOf(model, width, height)
  const stages = planStages(model, input)

  // 1. prompts
  yield { phase: 'encode' }
  const useGuidance = guidanceScale > 1
  const base = stages.base && {
    model,
    networks,
    stage: stages.base,
    done: 0,
    prompts: await encodePrompts(model, networks, input, useGuidance),
  }
  const refiner = stages.refiner && {
    model: model.refiner!,
    networks: networks.refiner!,
    stage: stages.refiner,
    done: evaluationsOf(stages.base),
    prompts: await encodePrompts(model.refiner!, networks.refiner!, input, useGuidance),
  }

  // 2. the picture to start from
  const plan = preparePlan(model, stages, input.strength)
  if (input.start.mode !== 'textToImage') yield { phase: 'encodeStart' }
  const start = await encodeStart(networks, model.vaeConfig, input.start, plan)

  // 3. each picture: its first latents, then what the base model does of it
  const order = { ...input, latentSize, of: evaluationsOf(stages.base) + evaluationsOf(stages.refiner) }
  const waiting: Run[] = []
  for (const [image, seed] of seeds.entries()) {
    const run = beginRun(model, order, start, plan, base ?? refiner!, image, seed)
    if (base) yield* denoiseStage(order, base, run)
    if (refiner) waiting.push(run)
    else yield* finish(model, networks, run)
  }

  // 4. what the refiner does
  if (refiner)
    for (const run of waiting) {
      yield* denoiseStage(order, refiner, run)
      yield* finish(model, networks, run)
    }
}

/** An order with what follows from it. */
type Planned = PipelineInput & {
  readonly latentSize: { readonly height: number; readonly width: number }
  /** Evaluations of the network for one picture. */
  readonly of: number
}

function preparePlan(model: PipelineModel, { base, refiner }: Stages, strength: number): PreparePlan {
  return { kind: base ? model.kind : model.refiner!.kind, hasSecondStage: base !== null && refiner !== null, strength }
}

function beginRun(
  { vaeConfig }: PipelineModel,
  { latentSize, numInferenceSteps, sampler }: Planned,
  start: EncodedStart,
  plan: PreparePlan,
  { model, stage }: Denoiser,
  image: number,
  seed: number,
): Run {
  const generator = new TorchGenerator(seed)
  const scheduler = createScheduler(sampler, model.scheduler, numInferenceSteps, stage.begin)
  const shape = [1, vaeConfig.latentChannels, latentSize.height, latentSize.width]
  const prepared = prepareLatents(vaeConfig, start, plan, shape, scheduler, stage.begin, generator)
  const fresh = new Float32Array(prepared.latents.data.length)
  return { ...prepared, image, noise: () => generator.fillNormal(fresh) }
}

async function* denoiseStage(
  { guidanceScale, height, latentSize, numInferenceSteps, of, previews, sampler, width }: Planned,
  { model, networks, prompts, stage, done }: Denoiser,
  { image, kept, latents, maskChannels, noise }: Run,
): AsyncGenerator<PipelineEvent, void> {
  yield { phase: 'denoise', image, step: done, of, clean: null }
  const batch = prompts.negative ? networks.guidanceBatch : 1
  const unet = await networks.unet({ batch, ...latentSize, textLength: prompts.positive.promptEmbeds.shape[1] })
  const guidance = prepareGuidance(unet, prompts, timeIdsOf(model.kind, height, width), guidanceScale)
  const newRun = () => createScheduler(sampler, model.scheduler, numInferenceSteps, stage.begin)
  const seesMask = model.kind === 'inpainting'
  const steps = denoise({
    guidance,
    scheduler: newRun(),
    stage,
    latents,
    noise,
    kept: seesMask ? null : kept,
    maskChannels: seesMask ? maskChannels : null,
    guess: previews ? cleanGuess(newRun(), model.scheduler.predictionType, latents.shape) : null,
  })
  for await (const { step, clean } of steps) yield { phase: 'denoise', image, step: done + step, of, clean }
}

async function* finish(
  { vaeConfig }: PipelineModel,
  networks: Networks,
  { image, latents }: Run,
): AsyncGenerator<PipelineEvent, void> {
  yield { phase: 'decode', image }
  yield { phase: 'done', image, picture: await decodeLatents(networks, vaeConfig, latents) }
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
