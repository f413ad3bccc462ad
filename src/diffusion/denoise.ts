import type { Tensor } from '#tensor/tensor.ts'
import { checkFinite } from './check-finite.ts'
import { guidedNoise, type Guidance } from './guidance.ts'
import type { Scheduler } from './schedulers/scheduler.ts'

export type DenoiseInput = {
  readonly guidance: Guidance
  readonly scheduler: Scheduler
  /** (1, C, H/f, W/f), scaled by the scheduler's initNoiseSigma. */
  readonly latents: Tensor
  /** Unit normal noise of the latents' shape, from the picture's own stream. */
  readonly noise: () => Tensor
}

/** Denoise latents to the end of the schedule, yielding after every evaluation of the network. */
export async function* denoise(input: DenoiseInput): AsyncGenerator<{ step: number; of: number }, Tensor> {
  const { guidance, scheduler, noise } = input
  const of = scheduler.timesteps.length
  let { latents } = input
  for (const [index, timestep] of scheduler.timesteps.entries()) {
    const noisePred = await guidedNoise(guidance, scheduler.scaleModelInput(latents, index), timestep)
    checkFinite(noisePred, `the UNet's prediction at step ${index + 1} of ${of}`)
    latents = scheduler.step(noisePred, index, latents, noise)
    yield { step: index + 1, of }
  }
  checkFinite(latents, 'the denoised latents')
  return latents
}
