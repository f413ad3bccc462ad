// The body of a picture request: what is forgiven, what it then is, and how the rest is refused.
import sharp from 'sharp'
import { describe, expect, it } from 'vitest'
import { samplerAliases, samplerNames } from '../../src/diffusion/samplers.ts'
import { stylePresetNames } from '../../src/diffusion/style-presets.ts'
import { faultsOf, InvalidRequest } from '../../src/http/error-reply.ts'
import { generateOrder } from '../../src/http/generate-order.ts'
import {
  generateRequest,
  pictureSizes,
  predictRequest,
  type GenerateRequest,
} from '../../src/http/schemas/generate-request.ts'
import { pictureLimitBytes } from '../../src/http/schemas/picture.ts'

const png = await sharp({ create: { width: 8, height: 8, channels: 3, background: 'red' } })
  .png()
  .toBuffer()
const image = png.toString('base64')

const parsed = (fields: object): GenerateRequest => generateRequest.parse({ prompt: 'a cat', ...fields })

/** The faults of a body, as `place: message`. */
function faults(body: unknown): string[] {
  const result = generateRequest.safeParse(body, { reportInput: true })
  if (result.success) throw new Error('the body was accepted')
  return faultsOf(result.error, 'body').map(({ loc, msg }) => `${loc.join('.')}: ${msg}`)
}
const faultsWith = (fields: object): string[] => faults({ prompt: 'a cat', ...fields })

describe('what is left out', () => {
  it('has the defaults of the contract', () => {
    expect(parsed({})).toEqual({
      prompt: 'a cat',
      prompt_2: null,
      negative_prompt: null,
      negative_prompt_2: null,
      checkpoint: null,
      loras: null,
      textual_inversions: null,
      vae: null,
      sampler: 'DDIM',
      width: 1024,
      height: 1024,
      cfg_scale: 12,
      steps: 30,
      num_images: 1,
      seed: null,
      init_image: null,
      strength: 0.8,
      mask_image: null,
      outpainting: false,
      inpaint_full_res: false,
      inpaint_full_res_padding: 32,
      controlnet: null,
      controlnet_image: null,
      controlnet_conditioning_scale: 1,
      controlnet_early_stop: null,
      controlnet_preprocess: true,
      use_refiner: true,
      high_noise_frac: 0.8,
      clip_skip: null,
      style_preset: null,
      image_encoding: 'jpeg',
      transfer_images: null,
      log_prompt: false,
      enable_safety: false,
      force_asset_download: false,
      force_asset_gpu_copy: false,
    })
  })

  it('is the same as null, for every field that has a default', () => {
    const { prompt: _prompt, ...others } = parsed({})
    const nulls = Object.fromEntries(Object.keys(others).map((field) => [field, null]))
    expect(parsed(nulls)).toEqual(parsed({}))
  })
})

describe('what is forgiven', () => {
  it.each([
    ['use_refiner', 'False', false],
    ['outpainting', 'false', false],
    ['enable_safety', 'true', true],
    ['enable_safety', '1', true],
    ['log_prompt', 0, false],
    ['log_prompt', 'no', false],
    ['seed', '2138732363', 2138732363],
    ['seed', 4294967295, 4294967295],
    ['seed', 0, 0],
    ['steps', '20', 20],
    ['steps', ' 20 ', 20],
    ['steps', 20.0, 20],
    ['steps', '2e1', 20],
    ['cfg_scale', '7.5', 7.5],
    ['cfg_scale', '.5', 0.5],
    ['style_preset', '', null],
    ['style_preset', 'None', null],
    ['style_preset', 'Pokémon', 'Pokémon'],
    ['strength', 1, 1],
    ['negative_prompt', '', ''],
  ])('%s: %o means %o', (field, given, value) => {
    expect(parsed({ [field]: given })[field as keyof GenerateRequest]).toBe(value)
  })

  it('numbers as text in a list of seeds', () => {
    expect(parsed({ seed: ['1', null, 3], num_images: '3' }).seed).toEqual([1, null, 3])
  })

  it('a data: prefix before base64, and none', () => {
    for (const text of [image, `data:image/png;base64,${image}`, `DATA:IMAGE/JPEG;BASE64,${image}`])
      expect(Buffer.from(parsed({ init_image: text }).init_image!)).toEqual(png)
  })

  it('a strength without a picture that it could be about, as old samples send it', () => {
    expect(parsed({ strength: 0.001 }).init_image).toBeNull()
  })
})

describe('what is refused', () => {
  it.each([
    [{ steps: 0 }, 'body.steps: steps must be a whole number from 1 to 200, got 0'],
    [{ steps: 201 }, 'body.steps: steps must be a whole number from 1 to 200, got 201'],
    [{ steps: 1.5 }, 'body.steps: steps must be a whole number from 1 to 200, got 1.5'],
    [{ steps: '1.5' }, 'body.steps: steps must be a whole number from 1 to 200, got 1.5'],
    [{ steps: true }, 'body.steps: steps must be a whole number from 1 to 200, got true'],
    [{ steps: '0x10' }, 'body.steps: steps must be a whole number from 1 to 200, got "0x10"'],
    [
      { steps: `${'1'.repeat(1_000_000)}x` },
      'body.steps: steps must be a whole number from 1 to 200, got a text of 1000001 characters',
    ],
    [{ use_refiner: `true${' '.repeat(100)}` }, expect.stringContaining('got a text of 104 characters')],
    [{ steps: '' }, 'body.steps: steps must be a whole number from 1 to 200, got ""'],
    [{ steps: [20] }, 'body.steps: steps must be a whole number from 1 to 200, got a list'],
    [{ cfg_scale: 0 }, 'body.cfg_scale: cfg_scale must be a number above 0 and up to 50, got 0'],
    [{ cfg_scale: 'NaN' }, 'body.cfg_scale: cfg_scale must be a number above 0 and up to 50, got "NaN"'],
    [
      { cfg_scale: Number.POSITIVE_INFINITY },
      'body.cfg_scale: cfg_scale must be a number above 0 and up to 50, got Infinity',
    ],
    [{ num_images: 17 }, 'body.num_images: num_images must be a whole number from 1 to 16, got 17'],
    [{ strength: 0 }, 'body.strength: strength must be a number above 0 and up to 1, got 0'],
    [{ high_noise_frac: 1.01 }, 'body.high_noise_frac: high_noise_frac must be a number from 0 to 1, got 1.01'],
    [{ clip_skip: 13 }, 'body.clip_skip: clip_skip must be a whole number from 1 to 12, got 13'],
    [{ inpaint_full_res_padding: -1 }, expect.stringContaining('must be a whole number from 0 to 4096, got -1')],
    [{ controlnet_conditioning_scale: -1 }, expect.stringContaining('must be a number of at least 0, got -1')],
    [{ seed: 4294967296 }, expect.stringContaining('seed must be a whole number from 0 to 4294967295')],
    [{ seed: -1 }, expect.stringContaining('seed must be a whole number from 0 to 4294967295')],
    [{ seed: [1, 'x'], num_images: 2 }, 'body.seed.1: seed[1] must be a whole number from 0 to 4294967295, got "x"'],
    [{ seed: [1, -1], num_images: 2 }, 'body.seed.1: seed[1] must be a whole number from 0 to 4294967295, got -1'],
    [{ seed: [1], num_images: 2 }, 'body.seed: seed must be a list of num_images = 2 numbers, got 1'],
    [{ use_refiner: 'maybe' }, 'body.use_refiner: use_refiner must be true or false, got "maybe"'],
    [{ use_refiner: 2 }, 'body.use_refiner: use_refiner must be true or false, got 2'],
    [{ sampler: 'ddim' }, expect.stringMatching(/^body\.sampler: sampler must be one of DDIM, .*, got "ddim"$/)],
    [{ style_preset: 'none' }, expect.stringMatching(/^body\.style_preset: .* must be one of base, .*, got "none"$/)],
    [{ image_encoding: 'webp' }, 'body.image_encoding: image_encoding must be one of jpeg, png, got "webp"'],
    [{ width: 512, height: 512 }, expect.stringMatching(/^body\.width: width × height must be one of .* got 512×512$/)],
    [{ width: 1344 }, expect.stringContaining('got 1344×1024')],
    [{ sampler: 'LCM', steps: 51 }, 'body.steps: steps 51 is not a whole number in 1..50 (sampler LCM)'],
    [{ mask_image: image }, 'body.mask_image: mask_image needs init_image, which is missing'],
    [{ init_image: image, outpainting: true }, 'body.mask_image: mask_image must be given with outpainting'],
    [{ init_image: image, inpaint_full_res: true }, expect.stringContaining('body.inpaint_full_res: ')],
    [
      { init_image: image, strength: 0.03, steps: 30 },
      'body.strength: strength × steps must be at least one step, got 0.03 × 30',
    ],
    [{ init_image: 'not base64!' }, expect.stringContaining('got " " at character 3')],
    [{ init_image: '' }, expect.stringContaining('got an empty text')],
    [{ init_image: 'AAA' }, expect.stringContaining('a multiple of 4')],
    [{ init_image: `data:text/html;base64,${image}` }, expect.stringContaining('got ":" at character 4')],
    [{ init_image: 5 }, 'body.init_image: init_image must be a picture in base64, got 5'],
    [{ prompt: 'a\0' }, 'body.prompt: prompt must be Unicode text without NUL characters'],
    [{ prompt: '\ud800' }, 'body.prompt: prompt must be Unicode text without NUL characters'],
    [{ prompt: 'x'.repeat(10_001) }, 'body.prompt: prompt must have at most 10000 characters, got 10001'],
    [{ prompt: null }, 'body.prompt: prompt must be text, got null'],
    [{ loras: { a: 'b' } }, 'body.loras.a: loras.a must be a number, got "b"'],
    [
      { transfer_images: { a: [image, 7] } },
      expect.stringContaining('body.transfer_images.a.1: transfer_images.a[1] must be'),
    ],
    [{ transfer_images: { a: [] } }, 'body.transfer_images.a: transfer_images.a must be 1 to 4 pictures, got a list'],
    [{ guidance: 7 }, 'body.guidance: guidance is no field of this request'],
    [JSON.parse('{"constructor": 1}') as object, 'body.constructor: constructor is no field of this request'],
  ])('%j', (fields, fault) => expect(faultsWith(fields)).toEqual([fault]))

  it('a body that is none, or no object', () => {
    expect(faults(undefined)).toEqual(['body: the body is missing'])
    expect(faults(null)).toEqual(['body: the body must be a JSON object, got null'])
    expect(faults([])).toEqual(['body: the body must be a JSON object, got a list'])
    expect(faults({})).toEqual(['body.prompt: prompt is missing'])
  })

  it('everything that is wrong, at once', () => {
    expect(faultsWith({ steps: 0, cfg_scale: 99, what: 1 }).map((fault) => fault.split(':')[0])).toEqual([
      'body.cfg_scale',
      'body.steps',
      'body.what',
    ])
  })

  it('a picture above the cap, before it is decoded', () => {
    const tooLarge = 'A'.repeat(Math.ceil((pictureLimitBytes * 4) / 3 / 4) * 4 + 8)
    expect(faultsWith({ init_image: tooLarge })).toEqual([expect.stringContaining('at most 32 MiB, got 33 MiB')])
  })

  it('characters are code points', () => {
    expect(parsed({ prompt: '🍎'.repeat(10_000) }).prompt).toHaveLength(20_000)
    expect(faultsWith({ prompt: '🍎'.repeat(10_001) })).toEqual([expect.stringContaining('got 10001')])
  })
})

it('every size of the contract passes', () => {
  expect(pictureSizes).toHaveLength(9)
  for (const [width, height] of pictureSizes) expect(parsed({ width, height })).toMatchObject({ width, height })
})

it('every sampler and style passes', () => {
  expect(samplerNames).toHaveLength(21)
  for (const sampler of samplerNames) expect(parsed({ sampler }).sampler).toBe(sampler)
  expect(stylePresetNames).toHaveLength(78)
  for (const style of stylePresetNames) expect(parsed({ style_preset: style }).style_preset).toBe(style)
})

describe('the legacy request', () => {
  it('takes older spellings of samplers, and the model in place of the checkpoint', () => {
    const predicted = (fields: object) => predictRequest.parse({ prompt: 'a cat', ...fields })
    for (const [alias, sampler] of Object.entries(samplerAliases))
      expect(predicted({ sampler: alias }).sampler).toBe(sampler)
    expect(predicted({ sampler: 'K_EULER' })).toMatchObject({ sampler: 'K_EULER', model: null, image_encoding: 'png' })
    expect(predictRequest.safeParse({ prompt: 'a', checkpoint: 'x' }).success).toBe(false)
    expect(generateRequest.safeParse({ prompt: 'a', sampler: 'DPMSingle' }).success).toBe(false)
  })
})

describe('the order', () => {
  it('has one seed a picture', () => {
    expect(generateOrder(parsed({ seed: 4294967294, num_images: 4 })).seeds).toEqual([4294967294, 4294967295, 0, 1])
    expect(generateOrder(parsed({ seed: [5, null], num_images: 2 })).seeds).toEqual([5, null])
    expect(generateOrder(parsed({ num_images: 2 })).seeds).toEqual([null, null])
  })

  it('carries everything that was asked', () => {
    const order = generateOrder(
      parsed({
        prompt_2: 'b',
        negative_prompt: '',
        negative_prompt_2: 'c',
        sampler: 'HEUN',
        width: 1344,
        height: 768,
        cfg_scale: 5,
        steps: 9,
        seed: 7,
        init_image: image,
        mask_image: image,
        strength: 0.5,
        inpaint_full_res: true,
        inpaint_full_res_padding: 3,
        use_refiner: false,
        high_noise_frac: 0.7,
        clip_skip: 2,
        style_preset: 'Space',
        image_encoding: 'png',
        log_prompt: true,
        enable_safety: true,
      }),
    )
    expect(order).toEqual({
      prompt: 'a cat',
      prompt2: 'b',
      negativePrompt: '',
      negativePrompt2: 'c',
      checkpoint: null,
      loras: {},
      textualInversions: {},
      vae: null,
      sampler: 'HEUN',
      width: 1344,
      height: 768,
      guidanceScale: 5,
      numInferenceSteps: 9,
      seeds: [7],
      initImage: new Uint8Array(png),
      strength: 0.5,
      maskImage: new Uint8Array(png),
      outpainting: false,
      inpaintFullRes: true,
      inpaintFullResPadding: 3,
      useRefiner: false,
      denoisingEnd: 0.7,
      clipSkip: 2,
      stylePreset: 'Space',
      imageEncoding: 'png',
      logPrompt: true,
      enableSafety: true,
    })
  })

  it.each([
    ['controlnet', 'canny'],
    ['controlnet_image', image],
    ['transfer_images', { luis: [image] }],
  ])('refuses %s, which is not there yet, and takes nothing of it', (field, value) => {
    expect(() => generateOrder(parsed({ [field]: value }))).toThrow(`${field} is not there yet`)
    expect(generateOrder(parsed({ [field]: null }))).toBeDefined()
  })

  it('takes empty sets of assets', () => {
    expect(generateOrder(parsed({ loras: {}, textual_inversions: {}, transfer_images: {} })).loras).toEqual({})
  })

  it('looks at both pictures before anything else does', () => {
    const text = Buffer.from('no picture').toString('base64')
    const bomb = Buffer.from(png)
    bomb.writeUInt32BE(20_000, 16)
    bomb.writeUInt32BE(20_000, 20)
    const order = () => generateOrder(parsed({ init_image: text, mask_image: bomb.toString('base64') }))
    expect(order).toThrow(InvalidRequest)
    expect(order).toThrow(
      /^init_image: the picture is no JPEG, PNG or WebP picture; mask_image: the picture has 20000×20000/,
    )
  })
})
