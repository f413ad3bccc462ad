/** Names of orders and tasks → names on the wire. What is missing here is called the same. */
const wireNames: Readonly<Record<string, string>> = {
  prompt2: 'prompt_2',
  negativePrompt: 'negative_prompt',
  negativePrompt2: 'negative_prompt_2',
  textualInversions: 'textual_inversions',
  guidanceScale: 'cfg_scale',
  numInferenceSteps: 'steps',
  seeds: 'seed',
  start: 'init_image',
  'start.image': 'init_image',
  'start.mask': 'mask_image',
  'start.strength': 'strength',
  'start.fullResPadding': 'inpaint_full_res_padding',
  initImage: 'init_image',
  image: 'init_image',
  maskImage: 'mask_image',
  mask: 'mask_image',
  inpaintFullRes: 'inpaint_full_res',
  inpaintFullResPadding: 'inpaint_full_res_padding',
  fullResPadding: 'inpaint_full_res_padding',
  useRefiner: 'use_refiner',
  refiner: 'use_refiner',
  'refiner.denoisingEnd': 'high_noise_frac',
  denoisingEnd: 'high_noise_frac',
  clipSkip: 'clip_skip',
  stylePreset: 'style_preset',
  imageEncoding: 'image_encoding',
  logPrompt: 'log_prompt',
  enableSafety: 'enable_safety',
}

/** What the wire calls a field of an order or a task. */
export function wireName(field: string): string {
  return wireNames[field] ?? field
}
