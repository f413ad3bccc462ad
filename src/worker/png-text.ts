import type { EngineChoice, GenerateTask, TaskStart } from './protocol.ts'

/** Identities of the weights that a picture was made with, and what computed it. */
export type MadeWith = EngineChoice & { readonly model: string; readonly refiner: string | null }

/** What a PNG says of how it was made: one text chunk a parameter, enough to make the picture again. */
export function pngText(task: GenerateTask, seed: number, made: MadeWith): Record<string, string> {
  const optional = {
    prompt_2: task.prompt2,
    negative_prompt: task.negativePrompt,
    negative_prompt_2: task.negativePrompt2,
    clip_skip: task.clipSkip,
  }
  return {
    Software: 'Sepia',
    prompt: task.prompt,
    ...given(optional),
    seed: String(seed),
    steps: String(task.numInferenceSteps),
    cfg_scale: String(task.guidanceScale),
    sampler: task.sampler,
    width: String(task.width),
    height: String(task.height),
    ...startText(task.start),
    ...given({ loras: task.loras.map(({ asset, scale }) => `${asset}:${scale}`).join(', ') || null }),
    ...given({
      textual_inversions: task.textualInversions.map(({ asset, trigger }) => `${asset}:${trigger}`).join(', ') || null,
      vae: task.vae,
    }),
    precision: made.precision,
    backend: made.backend,
    model_hash: made.model,
    ...given({ refiner_hash: made.refiner, high_noise_frac: task.refiner?.denoisingEnd ?? null }),
  }
}

/** How the picture began; nothing where it began with text alone. */
function startText(start: TaskStart): Record<string, string> {
  if (start.mode === 'textToImage') return {}
  const mode = { imageToImage: 'image_to_image', inpaint: 'inpaint', outpaint: 'outpaint' }[start.mode]
  const pictures = { init_image_hash: start.image, mask_image_hash: 'mask' in start ? start.mask : null }
  const padding = start.mode === 'inpaint' ? start.fullResPadding : null
  return given({ mode, strength: start.strength, ...pictures, inpaint_full_res_padding: padding })
}

function given(values: Readonly<Record<string, string | number | null>>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(values).flatMap(([key, value]) => (value === null ? [] : [[key, String(value)]])),
  )
}
