import { f32ToBf16, f32ToF16 } from '#tensor/dtype.ts'
import type { WeightDType } from './checkpoint.ts'

/** Number formats that fp32 is rounded to. */
export type HalfDType = Exclude<WeightDType, 'F32'>

/** How fp32 is rounded to each, with a count of the values that are too large for it, and where it ends, in words. */
export const halfFormats = {
  F16: { round: f32ToF16, ends: 'fp16 ends at ±65504' },
  BF16: { round: f32ToBf16, ends: 'bf16 ends at ±3.39e38' },
} as const satisfies Record<HalfDType, unknown>
