import { tensor, type Tensor } from '#tensor/tensor.ts'
import { checkFinite } from './check-finite.ts'
import { guidedNoise, type Guidance } from './guidance.ts'
import type { KeptArea, PreparedLatents } from './prepare-latents.ts'
import type { CleanGuess } from './preview.ts'
import type { Scheduler } from './schedulers/scheduler.ts'
import type { Stage } from './stages.ts'

export type DenoiseInput = {
  readonly guidance: Guidance
  /** A run that begins at the stage's first evaluation. */
  readonly scheduler: Scheduler
  readonly stage: Stage
  /** (1, C, h, w) at the stage's first noise level; denoised in place. */
  readonly latents: Tensor
  /** Fills and returns unit normal noise of the latents' shape, from the picture's own stream. */
  readonly noise: () => Float32Array
  /** What a UNet that knows nothing of masks must leave as it is. */
  readonly kept: KeptArea | null
  /** What an inpainting UNet sees behind the latents. */
  readonly maskChannels: PreparedLatents['maskChannels']
  /** Tells after each evaluation where the run is going. */
  readonly guess: CleanGuess | null
}

/** Evaluations done, and what the clean latents may be, where asked for; the next step overwrites them. */
export type DenoiseProgress = { readonly step: number; readonly clean: Tensor | null }

/** Denoise latents in place over one stage, yielding after every evaluation of the network. */
export async function* denoise(input: DenoiseInput): AsyncGenerator<DenoiseProgress, void> {
  const { guidance, scheduler, stage, latents, noise, kept, maskChannels, guess } = input
  // The buffers of the whole run: a step makes no arrays of its own.
  const modelInput = modelInputFor(latents, maskChannels)
  const sample = modelInput.data.subarray(0, latents.data.length)
  const noised = kept && new Float32Array(latents.data.length)
  for (let index = stage.begin; index < stage.end; index++) {
    scheduler.scaleModelInput(latents.data, index, sample)
    const noisePred = await guidedNoise(guidance, modelInput, scheduler.timesteps[index])
    checkFinite(noisePred, `the UNet's prediction at step ${index + 1} of ${scheduler.timesteps.length}`)
    const clean = guess?.(sample, noisePred.data, index, kept) ?? null
    scheduler.step(noisePred.data, index, latents.data, noise)
    if (kept) restoreKept(latents.data, kept, scheduler, index + 1, noised!)
    yield { step: index + 1 - stage.begin, clean }
  }
  checkFinite(latents, 'the denoised latents')
}

/** Latents in front, and what does not change from step to step behind them. */
function modelInputFor(latents: Tensor, maskChannels: Tensor | null): Tensor {
  const [, channels, height, width] = latents.shape as [number, number, number, number]
  const more = maskChannels?.shape[1] ?? 0
  const modelInput = tensor([1, channels + more, height, width], new Float32Array((channels + more) * height * width))
  if (maskChannels) modelInput.data.set(maskChannels.data, latents.data.length)
  return modelInput
}

/** Put the picture back outside the mask, with the noise of the evaluation that comes next; without noise at the end. */
function restoreKept(
  latents: Float32Array,
  { mask, picture, noise }: KeptArea,
  scheduler: Scheduler,
  next: number,
  noised: Float32Array,
): void {
  const isEnd = next === scheduler.timesteps.length
  if (!isEnd) scheduler.addNoise(picture, noise, next, noised)
  const source = isEnd ? picture : noised
  const plane = mask.length
  for (let start = 0; start < latents.length; start += plane)
    for (let i = 0; i < plane; i++) if (mask[i] === 0) latents[start + i] = source[start + i]
}
