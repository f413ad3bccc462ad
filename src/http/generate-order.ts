// From the wire's fields to the office's order: names, pictures that are looked at, and what is not there yet.
import type { GenerateOrder } from '#service/jobs/generate-order.ts'
import { probePicture } from '#image/probe.ts'
import { AppError } from '../errors.ts'
import { InvalidRequest, type Fault } from './error-reply.ts'
import type { GenerateRequest } from './schemas/generate-request.ts'

/**
 * The order that a request makes. Throws `unsupported` for a field whose feature is not there yet and InvalidRequest for
 * pictures that are none, are too large or are animated.
 */
export function generateOrder(request: GenerateRequest): GenerateOrder {
  refuseUnfinished(request)
  refuseBadPictures(request)
  return {
    prompt: request.prompt,
    prompt2: request.prompt_2,
    negativePrompt: request.negative_prompt,
    negativePrompt2: request.negative_prompt_2,
    checkpoint: request.checkpoint,
    loras: request.loras ?? {},
    textualInversions: request.textual_inversions ?? {},
    vae: request.vae,
    sampler: request.sampler,
    width: request.width,
    height: request.height,
    guidanceScale: request.cfg_scale,
    numInferenceSteps: request.steps,
    seeds: seedsOf(request),
    initImage: request.init_image,
    strength: request.strength,
    maskImage: request.mask_image,
    outpainting: request.outpainting,
    inpaintFullRes: request.inpaint_full_res,
    inpaintFullResPadding: request.inpaint_full_res_padding,
    useRefiner: request.use_refiner,
    denoisingEnd: request.high_noise_frac,
    clipSkip: request.clip_skip,
    stylePreset: request.style_preset,
    imageEncoding: request.image_encoding,
    logPrompt: request.log_prompt,
    enableSafety: request.enable_safety,
  }
}

/** One entry a picture: a single seed counts up, a list says each, null is left to chance. */
function seedsOf({ seed, num_images: count }: GenerateRequest): (number | null)[] {
  if (Array.isArray(seed)) return seed
  return Array.from({ length: count }, (_, index) => (seed === null ? null : (seed + index) % 2 ** 32))
}

function refuseUnfinished(request: GenerateRequest): void {
  const unfinished = {
    controlnet: request.controlnet,
    controlnet_image: request.controlnet_image,
    transfer_images: request.transfer_images,
  }
  for (const [field, value] of Object.entries(unfinished)) {
    if (value === null || (typeof value === 'object' && Object.keys(value).length === 0)) continue
    throw new AppError('unsupported', `${field} is not there yet: this server takes null only`, { field })
  }
}

function refuseBadPictures({ init_image, mask_image }: GenerateRequest): void {
  const faults: Fault[] = []
  for (const [field, bytes] of Object.entries({ init_image, mask_image })) {
    if (bytes === null) continue
    try {
      probePicture(bytes, field)
    } catch (error) {
      if (!(error instanceof AppError)) throw error
      faults.push({ loc: ['body', field], msg: error.message, type: error.code })
    }
  }
  if (faults.length > 0) throw new InvalidRequest(faults)
}
