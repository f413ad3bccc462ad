// Tasks that start from a picture or have a refiner, as an engine process carries them out.
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import sharp from 'sharp'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { UNet } from '#engine/networks/unet.ts'
import { readPngText } from '#image/codec.ts'
import { tensor } from '#tensor/tensor.ts'
import { PipelineCache } from '#worker/pipeline-cache.ts'
import type { EngineSettings, GenerateTask, Progress, TaskFiles, TaskStart } from '#worker/protocol.ts'
import { previewEncoder } from '#worker/preview-encoder.ts'
import { runGenerate } from '#worker/run-generate.ts'
import { runTask } from '../support/make-pictures.ts'
import { modesFolder } from '../support/mode-case.ts'
import { tinyRefiner, writeTinyInpaint } from '../support/mode-models.ts'
import { tinyModels } from '../support/tiny-b-single-file.ts'
import { pictureTask } from '../support/picture-task.ts'

const folder = mkdtempSync(join(tmpdir(), 'sepia-worker-modes-'))
const tinyA = join(tinyModels, 'tiny-a')
const pocket = join(import.meta.dirname, '../golden/models/pocket')
let tinyInpaint: string
let pictures: Record<string, string>

beforeAll(async () => {
  tinyInpaint = await writeTinyInpaint(folder)
  // White in the left quarter: what an outpainting canvas looks like.
  const canvas = join(folder, 'canvas.png')
  const mask = Buffer.alloc(64 * 64)
  for (let y = 0; y < 64; y++) mask.fill(255, y * 64, y * 64 + 16)
  await sharp(mask, { raw: { width: 64, height: 64, channels: 1 } })
    .png()
    .toFile(canvas)
  const black = join(folder, 'black.png')
  await sharp({ create: { width: 64, height: 64, channels: 3, background: 'black' } })
    .png()
    .toFile(black)
  const dot = join(folder, 'dot.png')
  await sharp({ create: { width: 256, height: 256, channels: 3, background: 'black' } })
    .composite([{ input: { create: { width: 9, height: 9, channels: 3, background: 'white' } }, left: 11, top: 11 }])
    .png()
    .toFile(dot)
  const broken = join(folder, 'broken.png')
  writeFileSync(broken, 'no picture')
  const input = (name: string): string => join(modesFolder, 'inputs', `${name}.png`)
  pictures = {
    picture: input('picture-64x64'),
    mask: input('mask-64x64'),
    spot: input('spot-64x64'),
    odd: input('picture-81x50'),
    large: input('picture-1024x1024'),
    canvas,
    black,
    dot,
    broken,
  }
})
afterAll(() => rm(folder, { recursive: true, force: true }))

const plain = pictureTask({
  prompt: 'a red apple',
  width: 64,
  height: 64,
  numInferenceSteps: 4,
  guidanceScale: 5,
  sampler: 'K_EULER_ANCESTRAL',
  seeds: [5, 6, 7],
})
const starts = {
  imageToImage: { mode: 'imageToImage', image: 'picture', strength: 0.6 },
  inpaint: { mode: 'inpaint', image: 'picture', mask: 'mask', strength: 0.8, fullResPadding: null },
  fullRes: { mode: 'inpaint', image: 'picture', mask: 'spot', strength: 1, fullResPadding: 4 },
  outpaint: { mode: 'outpaint', image: 'picture', mask: 'canvas', strength: 1 },
} as const satisfies Record<string, TaskStart>

function run(model: string, changes: Partial<GenerateTask>) {
  const task = { ...plain, ...changes }
  // Networks this small are slower with more threads.
  const threads = model === pocket ? 2 : 1
  return runTask(model, task, { threads }, { refiner: task.refiner ? tinyRefiner : null, pictures, assets: {} })
}

async function rgb(png: Uint8Array): Promise<Buffer> {
  return sharp(png).removeAlpha().raw().toBuffer()
}

describe('three pictures at once are the three made alone, bit for bit', () => {
  const refiner = { denoisingEnd: 0.5 }
  test.each<[string, 'tiny-a' | 'tiny-inpaint', Partial<GenerateTask>]>([
    ['image to image', 'tiny-a', { start: starts.imageToImage }],
    ['inpainting', 'tiny-a', { start: starts.inpaint }],
    ['inpainting at full resolution', 'tiny-a', { start: starts.fullRes }],
    ['outpainting', 'tiny-a', { start: starts.outpaint }],
    ['an inpainting model', 'tiny-inpaint', { start: starts.inpaint }],
    ['text to image with a refiner', 'tiny-a', { refiner }],
    ['image to image with a refiner', 'tiny-a', { start: starts.imageToImage, refiner }],
    ['inpainting with a refiner', 'tiny-a', { start: starts.inpaint, refiner }],
    ['an inpainting model with a refiner', 'tiny-inpaint', { start: { ...starts.inpaint, strength: 1 }, refiner }],
    ['a refiner alone', 'tiny-a', { refiner: { denoisingEnd: 0 } }],
  ])('%s', async (_, name, changes) => {
    const model = name === 'tiny-inpaint' ? tinyInpaint : tinyA
    const together = (await run(model, changes)).pictures
    expect(together).toHaveLength(3)
    const all = await Promise.all(together.map(rgb))
    expect(Buffer.compare(all[0], all[1])).not.toBe(0)
    for (const [index, seed] of plain.seeds.entries()) {
      const [alone] = (await run(model, { ...changes, seeds: [seed] })).pictures
      expect(Buffer.compare(together[index], alone), `seed ${seed}`).toBe(0)
    }
  })

  test('sixteen pictures come in order', async () => {
    const seeds = Array.from({ length: 16 }, (_, i) => 100 + i)
    const { pictures: made, progress } = await run(tinyA, { seeds, numInferenceSteps: 2, refiner })
    expect(made).toHaveLength(16)
    const decoded = progress.flatMap((event) => (event.phase === 'decode' ? [event.image] : []))
    expect(decoded).toEqual(seeds.map((_, i) => i))
  })
})

describe('what is not painted stays', () => {
  test.each(['inpaint', 'fullRes', 'outpaint'] as const)('%s', async (name) => {
    const { mask } = starts[name]
    const [picture] = (await run(tinyA, { start: starts[name], seeds: [1] })).pictures
    const [result, before] = [await rgb(picture), await sharp(pictures['picture']).raw().toBuffer()]
    const white = await sharp(pictures[mask]).toColourspace('b-w').raw().toBuffer()
    // Further than the seam's 8 pixels (and the 8 that outpainting reaches into the picture) from every white pixel.
    const reach = name === 'outpaint' ? 17 : 9
    let [kept, changed, touched] = [0, 0, 0]
    for (let y = 0; y < 64; y++)
      for (let x = 0; x < 64; x++) {
        const same = [0, 1, 2].every((c) => result[3 * (64 * y + x) + c] === before[3 * (64 * y + x) + c])
        const isFar = !nearWhite(white, x, y, reach)
        if (isFar && same) kept += 1
        if (isFar && !same) touched += 1
        if (white[64 * y + x] === 255 && !same) changed += 1
      }
    expect(touched).toBe(0)
    expect(kept).toBeGreaterThan(300)
    expect(changed).toBeGreaterThan(50)
  })

  function nearWhite(white: Buffer, x: number, y: number, reach: number): boolean {
    for (let dy = -reach; dy <= reach; dy++)
      for (let dx = -reach; dx <= reach; dx++) {
        const [at, row] = [x + dx, y + dy]
        if (at >= 0 && at < 64 && row >= 0 && row < 64 && white[64 * row + at] > 0) return true
      }
    return false
  }
})

test('a picture of another size is resized to the result', async () => {
  const [picture] = (await run(tinyA, { start: { ...starts.imageToImage, image: 'odd' }, seeds: [1] })).pictures
  expect(await sharp(picture).metadata()).toMatchObject({ width: 64, height: 64 })
})

describe('a refiner', () => {
  const settings = (name: string): EngineSettings => {
    const scratchDir = join(folder, name)
    mkdirSync(scratchDir, { recursive: true })
    return {
      device: 'cpu',
      backend: 'onnxruntime',
      precision: 'fp32',
      threads: 1,
      cacheDir: join(folder, 'cache'),
      cacheLimitBytes: 1e9,
      scratchDir,
    }
  }
  async function runIn(pipelines: PipelineCache, task: Partial<GenerateTask>): Promise<Progress[]> {
    const progress: Progress[] = []
    const files: TaskFiles = { checkpoint: tinyA, refiner: tinyRefiner, pictures, assets: {} }
    await runGenerate({ ...plain, refiner: { denoisingEnd: 0.5 }, ...task }, files, {
      pipelines,
      onProgress: (event) => void progress.push(event),
      onImage: async () => {},
    })
    return progress
  }

  test('begins when the base model has done its part of every picture', async () => {
    await using pipelines = new PipelineCache(settings('order'))
    const steps = (await runIn(pipelines, {})).flatMap((event) =>
      event.phase === 'denoise' ? [`${event.image}:${event.step}/${event.of}`] : [],
    )
    // What loading interrupts is told again.
    const told = steps.filter((step, i) => step !== steps[i - 1])
    expect(told).toEqual([
      ...[0, 1, 2].flatMap((image) => [`${image}:0/4`, `${image}:1/4`, `${image}:2/4`]),
      ...[0, 1, 2].flatMap((image) => [`${image}:2/4`, `${image}:3/4`, `${image}:4/4`]),
    ])
  })

  test('takes the place of the base model where memory is short, and each is loaded once', async () => {
    let free = Infinity
    await using pipelines = new PipelineCache(settings('short'), { freeBytes: () => free })
    const loaded = new Set<string>()
    const progress: Progress[] = []
    free = 0
    await runGenerate(
      { ...plain, refiner: { denoisingEnd: 0.5 } },
      { checkpoint: tinyA, refiner: tinyRefiner, pictures, assets: {} },
      {
        pipelines,
        onProgress: (event) => {
          progress.push(event)
          if (event.phase === 'denoise') for (const key of pipelines.loaded) loaded.add(key)
          const unets = pipelines.loaded.filter((key) => key.startsWith('unet'))
          expect(unets.length).toBeLessThanOrEqual(1)
        },
        onImage: async () => {},
      },
    )
    expect([...loaded].filter((key) => key.startsWith('unet'))).toHaveLength(2)
    // Base once, and the refiner again after each decoding, for which it had to go.
    const before = progress.findIndex((event) => event.phase === 'decode')
    const loads = progress.slice(0, before).filter((event) => event.phase === 'load' && event.component === 'unet')
    expect(loads).toHaveLength(2)
  })

  test('that does not fit is refused, with the reason', async () => {
    await expect(run(pocket, { refiner: { denoisingEnd: 0.8 }, width: 64 })).rejects.toMatchObject({
      code: 'wrong_architecture',
      field: 'refiner',
      message: expect.stringMatching(/tiny-refiner: it takes 4 latent channels and the model's VAE makes 8$/),
    })
    const files = { refiner: tinyA, pictures }
    await expect(runTask(tinyA, { ...plain, refiner: { denoisingEnd: 0.8 } }, {}, files)).rejects.toMatchObject({
      code: 'wrong_architecture',
      message: expect.stringMatching(/: this is no refiner, but a base model$/),
    })
  })

  test('leaves its traces in the PNG', async () => {
    const task = { refiner: { denoisingEnd: 0.5 }, start: starts.inpaint, seeds: [1] }
    const { pictures: made, result } = await run(tinyA, task)
    expect(readPngText(made[0])).toMatchObject({
      mode: 'inpaint',
      strength: '0.8',
      init_image_hash: 'picture',
      mask_image_hash: 'mask',
      model_hash: result.modelHash,
      refiner_hash: result.refinerHash,
      high_noise_frac: '0.5',
    })
    expect(result.refinerHash).toMatch(/^[0-9a-f]{64}$/)
    const [text] = (await run(tinyA, { seeds: [1] })).pictures
    for (const key of ['mode', 'strength', 'refiner_hash', 'high_noise_frac'])
      expect(readPngText(text)).not.toHaveProperty(key)
  })
})

describe('runs of the UNet', () => {
  test.each([
    ['guidance', { guidanceScale: 5 }, 8],
    ['no guidance', { guidanceScale: 1 }, 4],
    ['no guidance below 1', { guidanceScale: 0.5 }, 4],
    ['half a run', { guidanceScale: 1, start: { ...starts.imageToImage, strength: 0.5 } }, 2],
    ['an inpainting run', { guidanceScale: 1, start: { ...starts.inpaint, strength: 0.75 } }, 3],
    ['base and refiner', { guidanceScale: 1, refiner: { denoisingEnd: 0.5 } }, 4],
  ] as const)('%s', async (_, changes, runs) => {
    const predict = vi.spyOn(UNet.prototype, 'predict')
    try {
      await run(tinyA, { ...changes, seeds: [1] })
      expect(predict).toHaveBeenCalledTimes(runs)
    } finally {
      predict.mockRestore()
    }
  })
})

describe('previews', () => {
  test('come with every step, and end at what the picture is', async () => {
    const task = { width: 512, height: 384, previews: true, numInferenceSteps: 3, seeds: [1] }
    const { painted, progress } = await run(pocket, { ...task, prompt: 'a red apple on a light blue background' })
    const steps = progress.flatMap((event) => (event.phase === 'denoise' && event.step > 0 ? [event] : []))
    expect(steps.map(({ preview }) => preview !== undefined)).toEqual([true, true, true])
    const last = steps[2].preview!
    expect(last.length).toBeLessThan(20_000)
    const { data, info } = await sharp(last).raw().toBuffer({ resolveWithObject: true })
    expect([info.format, info.width, info.height, info.channels]).toEqual(['raw', 64, 48, 3])
    const small = await sharp(painted[0].data, { raw: { width: 512, height: 384, channels: 3 } })
      .resize(64, 48)
      .raw()
      .toBuffer()
    let [difference, spread] = [0, 0]
    const mean = small.reduce((sum, value) => sum + value, 0) / small.length
    for (let i = 0; i < small.length; i++) {
      difference += Math.abs(small[i] - data[i]) / small.length
      spread += Math.abs(small[i] - mean) / small.length
    }
    expect(difference).toBeLessThan(12)
    expect(spread).toBeGreaterThan(2 * difference)
  })

  test('leave steps out where they would take more than a fiftieth of the time', async () => {
    const rows = Array.from({ length: 3 }, () => Float64Array.of(1, 0))
    let nowMs = 0
    const encode = previewEncoder({ latentChannels: 1, patch: 1, rows }, () => (nowMs += 1))
    const clean = tensor([1, 1, 8, 8], new Float32Array(64))
    const steps: boolean[] = []
    for (let step = 0; step < 4; step++) {
      steps.push((await encode(clean)) !== null)
      nowMs += 18
    }
    // Each takes 1 ms of this clock, so that the next is due 49 ms after its end.
    expect(steps).toEqual([true, false, false, true])
  })

  test('cost nothing where nobody asks, and change no picture', async () => {
    const without = await run(tinyA, { start: starts.inpaint, seeds: [1] })
    expect(without.progress.some((event) => 'preview' in event)).toBe(false)
    const withPreviews = await run(tinyA, { start: starts.inpaint, seeds: [1], previews: true })
    expect(Buffer.compare(withPreviews.pictures[0], without.pictures[0])).toBe(0)
  })
})

describe('bad input is told before any weight is read', () => {
  test.each<[string, Partial<GenerateTask>, object]>([
    [
      'a strength of 0',
      { start: { ...starts.inpaint, strength: 0 } },
      { code: 'bad_argument', field: 'start.strength' },
    ],
    [
      'less than one step',
      { start: { ...starts.imageToImage, strength: 0.2 } },
      { code: 'bad_argument', field: 'start.strength', message: expect.stringContaining('at least 0.25') },
    ],
    [
      'a file that is no picture',
      { start: { ...starts.imageToImage, image: 'broken' } },
      { code: 'bad_image', field: 'start.image' },
    ],
    [
      'a mask that is no picture',
      { start: { ...starts.inpaint, mask: 'broken' } },
      { code: 'bad_image', field: 'start.mask' },
    ],
    ['nothing to paint', { start: { ...starts.inpaint, mask: 'black' } }, { code: 'bad_image', field: 'start.mask' }],
    [
      'nothing to paint at full resolution',
      { start: { ...starts.fullRes, mask: 'black' } },
      { code: 'bad_image', field: 'start.mask' },
    ],
    [
      'nothing to paint outside',
      { start: { ...starts.outpaint, mask: 'black' } },
      { code: 'bad_image', field: 'start.mask' },
    ],
    ['a size that the VAE cannot make', { start: starts.inpaint, width: 65 }, { code: 'bad_size' }],
    ['a split out of range', { refiner: { denoisingEnd: 2 } }, { code: 'bad_argument', field: 'refiner.denoisingEnd' }],
    [
      'too many layers skipped for the refiner',
      { refiner: { denoisingEnd: 0.5 }, clipSkip: 5 },
      { code: 'bad_argument' },
    ],
  ])('%s', async (_, changes, error) => {
    const scratchDir = join(folder, 'bad')
    mkdirSync(scratchDir, { recursive: true })
    const cacheDir = join(folder, 'untouched')
    await using pipelines = new PipelineCache({
      device: 'cpu',
      backend: 'onnxruntime',
      precision: 'fp32',
      threads: 1,
      cacheLimitBytes: 1e9,
      cacheDir,
      scratchDir,
    })
    const onProgress = vi.fn()
    const task = { ...plain, ...changes }
    const files = { checkpoint: tinyA, refiner: task.refiner ? tinyRefiner : null, pictures, assets: {} }
    await expect(runGenerate(task, files, { pipelines, onProgress, onImage: vi.fn() })).rejects.toMatchObject(error)
    expect(onProgress).not.toHaveBeenCalled()
  })

  test('an inpainting model without a mask', async () => {
    for (const start of [plain.start, starts.imageToImage])
      await expect(run(tinyInpaint, { start })).rejects.toMatchObject({
        code: 'wrong_architecture',
        message: expect.stringMatching(/: this is an inpainting model, which needs a picture and a mask$/),
      })
  })
})

test('a mask that no latent is seen through is told', async () => {
  const start = { ...starts.inpaint, image: 'large', mask: 'dot' }
  const task = { start, width: 256, height: 256, numInferenceSteps: 2, guidanceScale: 1, seeds: [1] }
  const { result } = await run(pocket, task)
  expect(result.warnings).toEqual(['the mask is finer than a latent of 32 pixels: nothing was painted'])
})
