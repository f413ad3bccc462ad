// The sizes of Stable Diffusion XL's base model (arXiv 2307.01952, table 1, and its published configurations).
import type { ClipTextConfig } from '../../models/clip-text-config.ts'
import type { UNetConfig } from '../../models/unet-config.ts'

/** The UNet: 2.6 billion parameters. */
export const sdxlUNet: UNetConfig = {
  inChannels: 4,
  outChannels: 4,
  downBlocks: [
    { channels: 320, transformers: [null, null], heads: 5, resample: true },
    { channels: 640, transformers: [2, 2], heads: 10, resample: true },
    { channels: 1280, transformers: [10, 10], heads: 20, resample: false },
  ],
  midBlock: { transformers: [10], heads: 20 },
  upBlocks: [
    { channels: 1280, transformers: [10, 10, 10], heads: 20, resample: true },
    { channels: 640, transformers: [2, 2, 2], heads: 10, resample: true },
    { channels: 320, transformers: [null, null, null], heads: 5, resample: false },
  ],
  crossAttentionDim: 2048,
  timeProjDim: 320,
  timeEmbedDim: 1280,
  additionTimeEmbedDim: 256,
  addEmbeddingInputDim: 2816,
  normNumGroups: 32,
  normEps: 1e-5,
  flipSinToCos: true,
  freqShift: 0,
  resnetTimeScaleShift: 'default',
  useLinearProjection: true,
}

/** The first text encoder, CLIP ViT-L. */
export const sdxlClipText: ClipTextConfig = {
  vocabSize: 49408,
  hiddenSize: 768,
  intermediateSize: 3072,
  numHiddenLayers: 12,
  numAttentionHeads: 12,
  maxPositionEmbeddings: 77,
  hiddenAct: 'quick_gelu',
  layerNormEps: 1e-5,
  projectionDim: null,
}

/** The second text encoder, OpenCLIP ViT-bigG. */
export const sdxlClipText2: ClipTextConfig = {
  vocabSize: 49408,
  hiddenSize: 1280,
  intermediateSize: 5120,
  numHiddenLayers: 32,
  numAttentionHeads: 20,
  maxPositionEmbeddings: 77,
  hiddenAct: 'gelu',
  layerNormEps: 1e-5,
  projectionDim: 1280,
}
