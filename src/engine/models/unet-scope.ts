import type { GraphBuilder, Value } from '../onnx/graph-builder.ts'
import type { LayerOptions } from '../onnx/layers.ts'
import type { UNetConfig } from './unet-config.ts'

/** What every block of one UNet graph needs. */
export type UNetScope = {
  readonly g: GraphBuilder
  readonly config: Pick<UNetConfig, 'normNumGroups' | 'normEps' | 'resnetTimeScaleShift' | 'useLinearProjection'>
  readonly options: LayerOptions
  /** silu of the time embedding, (B, timeEmbedDim). */
  readonly temb: Value
  /** Text embeddings, (B·T, crossAttentionDim). */
  readonly context: Value
}
