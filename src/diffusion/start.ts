import type { Tensor } from '#tensor/tensor.ts'

/** What a picture starts from, as tensors; a picture is (1, 3, H, W) in −1..1 and has the result's size. */
export type PipelineStart =
  | { readonly mode: 'textToImage' }
  | { readonly mode: 'imageToImage'; readonly image: Tensor }
  | {
      readonly mode: 'inpaint'
      readonly image: Tensor
      /** (1, 1, H, W), 1 where to paint and 0 elsewhere. */
      readonly mask: Tensor
      /** The same for latents, (1, 1, h, w). */
      readonly latentMask: Tensor
    }
