// A UNet2DConditionModel with text_time conditioning, resolved to one entry a block, so that pruned and uneven
// networks (SSD-1B and its like) need no special case.

export type UNetBlock = {
  /** Channels that leave the block. */
  readonly channels: number
  /** One entry a resnet: the depth of the transformer behind it, or null where there is none. */
  readonly transformers: readonly (number | null)[]
  /** Attention heads of the block's transformers. */
  readonly heads: number
  /** Whether the block ends with a down- or upsampler. */
  readonly resample: boolean
}

export type UNetConfig = {
  readonly inChannels: number
  readonly outChannels: number
  readonly downBlocks: readonly UNetBlock[]
  /** `transformers` has one entry for each attention between two resnets (n + 1 resnets); null: no middle block. */
  readonly midBlock: { readonly transformers: readonly (number | null)[]; readonly heads: number } | null
  readonly upBlocks: readonly UNetBlock[]
  readonly crossAttentionDim: number
  /** Width of the sinusoidal embedding of the timestep. */
  readonly timeProjDim: number
  /** Width of the time embedding after its two linears. */
  readonly timeEmbedDim: number
  /** Width of the sinusoidal embedding of each time id. */
  readonly additionTimeEmbedDim: number
  /** Input width of add_embedding: pooled width + additionTimeEmbedDim × number of time ids. */
  readonly addEmbeddingInputDim: number
  readonly normNumGroups: number
  readonly normEps: number
  readonly flipSinToCos: boolean
  readonly freqShift: number
  readonly resnetTimeScaleShift: 'default' | 'scale_shift'
  /** proj_in and proj_out of the transformers: linear, or 1×1 convolutions. */
  readonly useLinearProjection: boolean
}
