/** The sizes of an AutoencoderKL, as diffusers' config.json gives them. */
export type VaeConfig = {
  readonly inChannels: number
  readonly outChannels: number
  readonly latentChannels: number
  /** Encoder order; each step but the last halves the picture. */
  readonly blockOutChannels: readonly number[]
  readonly layersPerBlock: number
  readonly normNumGroups: number
  readonly midBlockAddAttention: boolean
  readonly useQuantConv: boolean
  readonly usePostQuantConv: boolean
  readonly scalingFactor: number
  readonly shiftFactor: number | null
  readonly latentsMean: readonly number[] | null
  readonly latentsStd: readonly number[] | null
}

/** Pixels per latent in each direction: 8 for SDXL. */
export function vaeScaleFactor(config: VaeConfig): number {
  return 2 ** (config.blockOutChannels.length - 1)
}
