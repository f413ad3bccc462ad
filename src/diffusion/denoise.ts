import { tensor, type Tensor } from '#tensor/tensor.ts'
import { checkFinite } from './check-finite.ts'
import { guidedNoise, type Guidance } from './guidance.ts'
import type { Scheduler } from './schedulers/scheduler.ts'

export type DenoiseInput = {
  readonly guidance: Guidance
  readonly scheduler: Scheduler
  /** (1, C, H/f, W/f), scaled by the scheduler's initNoiseSigma; denoised in place. */
  readonly latents: Tensor
  /** Fills and returns unit normal noise of the latents' shape, from the picture's own stream. */
  readonly noise: () => Float32Array
}

/** Denoise latents in place to the end of the schedule, yielding after every evaluation of the network. */
export async function* denoise(input: DenoiseInput): AsyncGenerator<{ step: number; of: number }, Tensor> {
  const { guidance, scheduler, latents, noise } = input
  const of = scheduler.timesteps.length
  const modelInput = tensor(latents.shape, new Float32Array(latents.data.length))
  for (const [index, timestep] of scheduler.timesteps.entries()) {
    scheduler.scaleModelInput(latents.data, index, modelInput.data)
    const noisePred = await guidedNoise(guidance, modelInput, timestep)
    checkFinite(noisePred, `the UNet's prediction at step ${index + 1} of ${of}`)
    scheduler.step(noisePred.data, index, latents.data, noise)
    yield { step: index + 1, of }
  }
  checkFinite(latents, 'the denoised latents')
  return latents
}
