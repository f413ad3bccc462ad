/** The sizes of a CLIP text encoder, as transformers' config.json gives them. */
export type ClipTextConfig = {
  readonly vocabSize: number
  readonly hiddenSize: number
  readonly intermediateSize: number
  readonly numHiddenLayers: number
  readonly numAttentionHeads: number
  readonly maxPositionEmbeddings: number
  readonly hiddenAct: 'quick_gelu' | 'gelu'
  readonly layerNormEps: number
  /** Width of the pooled embedding; null for a CLIPTextModel without projection. */
  readonly projectionDim: number | null
}
