/**
 * One run of a sampling algorithm over one picture's latents. Holds the history of multistep methods, so its evaluations
 * are taken one after another. Arrays are the latents' values, fp32, all of one length; a run allocates none after its
 * first evaluations.
 */
export type Scheduler = {
  /**
   * What the UNet is called with, from noisy to clean, one an evaluation; may be fractional. Methods of second order list
   * both evaluations of a step.
   */
  readonly timesteps: readonly number[]
  /** Evaluations of the network a step, as diffusers' `order`. */
  readonly order: 1 | 2
  /** Factor on unit noise for the first latents. */
  readonly initNoiseSigma: number
  /** Writes what the UNet wants to see at evaluation `index` into `out`. */
  scaleModelInput(sample: Float32Array, index: number, out: Float32Array): void
  /**
   * Moves `sample` in place over evaluation `index`. `noise` fills and returns unit normal values from the picture's own
   * stream; the next call may overwrite them.
   */
  step(modelOutput: Float32Array, index: number, sample: Float32Array, noise: () => Float32Array): void
  /** Writes `original` with `noise` at the level of evaluation `index` into `out`. */
  addNoise(original: Float32Array, noise: Float32Array, index: number, out: Float32Array): void
}
