// The body of the picture endpoints: what the wire calls its fields, what each takes, and what it is when left out.
import { z } from 'zod'
import { requireSteps, samplerAliases, samplerNames, type SamplerName } from '#diffusion/samplers.ts'
import { stylePresetNames } from '#diffusion/style-presets.ts'
import { AppError } from '../../errors.ts'
import { anyNumber, decimal, flag, oneOf, optional, takes, unicode, wholeNumber, withDefault } from './lenient.ts'
import { picture } from './picture.ts'

const promptLimit = 10_000
const seedLimit = 2 ** 32 - 1

/** Width × height of the pictures that the API makes: those that SDXL was trained on. */
export const pictureSizes: readonly (readonly [width: number, height: number])[] = [
  [640, 1536],
  [768, 1344],
  [832, 1216],
  [896, 1152],
  [1024, 1024],
  [1152, 896],
  [1216, 832],
  [1344, 768],
  [1536, 640],
]
const sizeList = pictureSizes.map((size) => size.join('×')).join(', ')

const reference = () => z.string(takes('an asset reference'))
const seed = () => wholeNumber(0, seedLimit)
const preset = z.preprocess(
  (value) => (value === '' || value === 'None' ? null : value),
  optional(oneOf(stylePresetNames)),
)

const fields = {
  prompt: unicode(promptLimit).describe(
    'What the picture shows. `(words:1.3)` counts more, `(words:0.7)` less, `\\(` and `\\)` are brackets themselves. Nothing is cut off; more than 600 tokens are refused.',
  ),
  prompt_2: optional(unicode(promptLimit)).describe(
    'Another prompt for the second text encoder; a copy of `prompt` when left out.',
  ),
  negative_prompt: optional(unicode(promptLimit)).describe(
    'What the picture does not show. Null differs from an empty text, which is encoded.',
  ),
  negative_prompt_2: optional(unicode(promptLimit)).describe(
    'The same for the second text encoder; a copy of `negative_prompt` when left out.',
  ),
  checkpoint: optional(reference()).describe(
    'Another model of the asset library: an id, a name, or `octoai:name` for the public library.',
  ),
  loras: optional(z.record(z.string(), anyNumber(), takes('an object of references and weights'))).describe(
    'LoRAs, reference → weight; weights may be negative or above 1.',
  ),
  textual_inversions: optional(
    z.record(z.string(), z.string(takes('a trigger word')), takes('an object of references and trigger words')),
  ).describe('Textual inversions, reference → trigger word.'),
  vae: optional(reference()).describe('Another VAE of the asset library.'),
  sampler: withDefault(oneOf(samplerNames), 'DDIM').describe('The sampler: an algorithm of diffusers and its options.'),
  width: withDefault(wholeNumber(1, 4096), 1024).describe(`Pixels. Together with the height one of ${sizeList}.`),
  height: withDefault(wholeNumber(1, 4096), 1024).describe('Pixels; see `width`.'),
  cfg_scale: withDefault(decimal({ min: 0, max: 50, above: true }), 12).describe(
    'How strictly the prompt is followed.',
  ),
  steps: withDefault(wholeNumber(1, 200), 30).describe('Denoising steps; LCM takes up to 50.'),
  num_images: withDefault(wholeNumber(1, 16), 1).describe(
    'How many pictures, with the seeds seed, seed+1, … modulo 2³².',
  ),
  seed: optional(
    z.union(
      [seed(), z.array(seed().nullable())],
      takes(`a whole number from 0 to ${seedLimit}, or a list of such numbers and nulls`),
    ),
  ).describe(
    'The same seed makes the same picture, whatever `num_images` is. A list gives one seed a picture; null is random. Each picture of the answer carries its seed.',
  ),
  init_image: optional(picture()).describe(
    'Base64 of a JPEG, PNG or WebP: the picture to change (image to image), or to inpaint when there is a mask.',
  ),
  strength: withDefault(decimal({ min: 0, max: 1, above: true }), 0.8).describe(
    'How much of `init_image` may change. Without one it means nothing.',
  ),
  mask_image: optional(picture()).describe('Base64 of a picture that is white where `init_image` is repainted.'),
  outpainting: withDefault(flag(), false).describe(
    'Paint the white area of the mask as a continuation of the picture; needs `init_image` and `mask_image`.',
  ),
  inpaint_full_res: withDefault(flag(), false).describe(
    'Paint only the bounding box of the mask, enlarged to the whole frame, and paste it back.',
  ),
  inpaint_full_res_padding: withDefault(wholeNumber(0, 4096), 32).describe('Context in pixels round that box.'),
  controlnet: optional(reference()).describe('Not there yet: anything but null is refused.'),
  controlnet_image: optional(picture()).describe('Not there yet: anything but null is refused.'),
  controlnet_conditioning_scale: withDefault(decimal({ min: 0, max: Infinity }), 1).describe(
    'Means nothing without a ControlNet.',
  ),
  controlnet_early_stop: optional(decimal({ min: 0, max: 1 })).describe('Means nothing without a ControlNet.'),
  controlnet_preprocess: withDefault(flag(), true).describe('Means nothing without a ControlNet.'),
  use_refiner: withDefault(flag(), true).describe(
    'Let the refiner do the last steps. On a server without a refiner the answer says so in its header X-Sepia-Not-Applied.',
  ),
  high_noise_frac: withDefault(decimal({ min: 0, max: 1 }), 0.8).describe(
    'Part of the steps that the base model does; the refiner does the rest.',
  ),
  clip_skip: optional(wholeNumber(1, 12)).describe(
    'Leave out the last layers of the text encoders, counted as diffusers does.',
  ),
  style_preset: preset.describe('A template round the prompt and words before the negative prompt.'),
  image_encoding: withDefault(oneOf(['jpeg', 'png']), 'jpeg').describe(
    'Format of the pictures. A PNG carries its prompt, seed and the hash of the model as text.',
  ),
  transfer_images: optional(
    z.record(
      z.string(),
      z.array(picture()).min(1, takes('1 to 4 pictures')).max(4, takes('1 to 4 pictures')),
      takes('an object of trigger words and pictures'),
    ),
  ).describe('Photo Merge. Not there yet: anything but null and {} is refused.'),
  log_prompt: withDefault(flag(), false).describe(
    'Allow the prompt to be kept for 15 days; otherwise it is forgotten when the job ends.',
  ),
  enable_safety: withDefault(flag(), false).describe(
    'Without a classifier on the server the answer says so in its header X-Sepia-Not-Applied.',
  ),
  force_asset_download: withDefault(flag(), false).describe(
    'Accepted from old programs; assets are always up to date.',
  ),
  force_asset_gpu_copy: withDefault(flag(), false).describe(
    'Accepted from old programs; assets are always up to date.',
  ),
}

const example = { prompt: 'a red apple on a light blue background', negative_prompt: 'text, frame', steps: 30, seed: 7 }

const body = z.strictObject(fields, takes('a JSON object'))

/** Body of POST /generate/sdxl: lenient as the original was, all defaults applied, cross-checked. */
export const generateRequest = body.superRefine(checkCombination).meta({ id: 'GenerateRequest', examples: [example] })

/** What the schema of POST /generate/sdxl gives. */
export type GenerateRequest = z.output<typeof body>

const { checkpoint, ...otherFields } = fields
const legacyNames = [...samplerNames, ...Object.keys(samplerAliases)] as const
const legacySampler = withDefault(oneOf(legacyNames as unknown as readonly [string, ...string[]]), 'DDIM')
  .transform((name): SamplerName => samplerAliases[name] ?? (name as SamplerName))
  .describe('The sampler, in its present or its older spelling.')

/** Body of POST /predict, as it was in autumn 2023: `model` for the checkpoint, older spellings of samplers, PNG. */
export const predictRequest = z
  .strictObject(
    {
      ...otherFields,
      model: checkpoint,
      sampler: legacySampler,
      image_encoding: withDefault(oneOf(['jpeg', 'png']), 'png').describe('Format of the pictures.'),
    },
    takes('a JSON object'),
  )
  .superRefine(checkCombination)
  .meta({ id: 'PredictRequest', examples: [example] })

type Combination = Omit<GenerateRequest, 'checkpoint'>

function checkCombination(request: Combination, context: z.core.$RefinementCtx<Combination>): void {
  const refuse = (field: keyof Combination, message: string) =>
    context.addIssue({ code: 'custom', path: [field], message, input: undefined })

  const { width, height, seed: seeds, num_images: count, steps, sampler } = request
  if (!pictureSizes.some((size) => size[0] === width && size[1] === height))
    refuse('width', `× height must be one of ${sizeList}, got ${width}×${height}`)
  if (Array.isArray(seeds) && seeds.length !== count)
    refuse('seed', `must be a list of num_images = ${count} numbers, got ${seeds.length}`)
  if (request.mask_image && !request.init_image) refuse('mask_image', 'needs init_image, which is missing')
  if (request.outpainting) {
    if (!request.init_image) refuse('init_image', 'must be given with outpainting')
    if (!request.mask_image) refuse('mask_image', 'must be given with outpainting')
  }
  if (request.inpaint_full_res && (request.outpainting || !request.mask_image))
    refuse('inpaint_full_res', 'is about the box of a mask_image that is inpainted: it needs one, and no outpainting')
  if (request.init_image && Math.trunc(steps * request.strength) < 1)
    refuse('strength', `× steps must be at least one step, got ${request.strength} × ${steps}`)
  try {
    requireSteps(sampler, steps)
  } catch (error) {
    if (!(error instanceof AppError)) throw error
    refuse('steps', error.message.replace(/^steps: /, ''))
  }
}
