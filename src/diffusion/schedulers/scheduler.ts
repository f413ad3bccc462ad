import type { Tensor } from '#tensor/tensor.ts'

/** One run of a sampling algorithm over one picture's latents. Holds the history of multistep methods. */
export type Scheduler = {
  /** What the UNet is called with, from noisy to clean; may be fractional. */
  readonly timesteps: readonly number[]
  /** Factor on unit noise for the first latents. */
  readonly initNoiseSigma: number
  /** Latents as the UNet wants them at step `index`. */
  scaleModelInput(sample: Tensor, index: number): Tensor
  /** Latents after step `index`; `noise` draws a unit normal tensor of the latents' shape when the method needs one. */
  step(modelOutput: Tensor, index: number, sample: Tensor, noise: () => Tensor): Tensor
}
