import { projectLatents, type PreviewProjection } from '#diffusion/preview.ts'
import { encodeJpeg, toPixels } from '#image/codec.ts'
import type { Tensor } from '#tensor/tensor.ts'

/** Clean latents (1, C, h, w) → a small JPEG; null while another one would take too much of the time. */
export type PreviewEncoder = (clean: Tensor) => Promise<Uint8Array | null>

/** Quality of the JPEGs, 1 to 100. */
const quality = 80
/** The part of a task's time that its previews may take: every step of a large model, some of a small one's. */
const share = 0.02

/** An encoder that paces itself by the clock `now`, in milliseconds. */
export function previewEncoder(projection: PreviewProjection, now: () => number): PreviewEncoder {
  let dueMs = -Infinity
  return async (clean) => {
    const startMs = now()
    if (startMs < dueMs) return null
    const jpeg = await encodeJpeg(toPixels(projectLatents(projection, clean)), quality)
    const endMs = now()
    dueMs = endMs + (endMs - startMs) * (1 / share - 1)
    return jpeg
  }
}
