import type { GenerateTask } from '#worker/protocol.ts'

/** What every task says for itself. */
type Order = Pick<
  GenerateTask,
  'prompt' | 'width' | 'height' | 'numInferenceSteps' | 'guidanceScale' | 'sampler' | 'seeds'
>

/** A task of text to image with the model's own parts; `order` may also change what is left out by most. */
export function pictureTask(order: Order & Partial<GenerateTask>): GenerateTask {
  return {
    prompt2: null,
    negativePrompt: null,
    negativePrompt2: null,
    clipSkip: null,
    start: { mode: 'textToImage' },
    checkpoint: null,
    vae: null,
    loras: [],
    textualInversions: [],
    refiner: null,
    previews: false,
    imageEncoding: 'png',
    ...order,
  }
}
