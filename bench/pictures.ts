// The pictures of docs/modes.md and docs/assets.md: each way to make one, with the model that ships. For looking at.
//
//   node bench/pictures.ts --output docs/pictures [--only image-to-image|inpaint|outpaint|styles|assets] [--cache DIR] [--threads N]
import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import sharp, { type OverlayOptions } from 'sharp'
import { shippedAssets } from '#cli/asset-places.ts'
import { applyStyle, stylePresetNames } from '#diffusion/style-presets.ts'
import { expandCanvas, type Sides } from '#image/outpaint.ts'
import { EngineProcess } from '#worker/engine-process.ts'
import type { GenerateTask, TaskStart } from '#worker/protocol.ts'
import { pictureTask } from '../test/support/picture-task.ts'

const { values } = parseArgs({
  options: {
    output: { type: 'string' },
    only: { type: 'string', default: '' },
    cache: { type: 'string', default: '.bench-cache' },
    threads: { type: 'string', default: String(availableParallelism()) },
  },
})
if (values.output === undefined) throw new Error('--output FOLDER is missing')

const edge = 1024
const labelHeight = 26
const gap = 8

type Cell = { readonly label: string; readonly picture: Uint8Array }
type Order = Partial<
  Pick<GenerateTask, 'width' | 'height' | 'negativePrompt' | 'numInferenceSteps' | 'loras' | 'textualInversions'>
> & {
  readonly prompt: string
  readonly seed: number
  readonly start?: TaskStart
}

const folder = await mkdtemp(path.join(tmpdir(), 'sepia-pictures-'))
const pictures: Record<string, string> = {}
const files: Record<string, string> = {}
try {
  await using engine = await EngineProcess.start({
    device: 'cpu',
    backend: 'onnxruntime',
    precision: 'fp32',
    threads: Number(values.threads),
    cacheDir: path.resolve(values.cache),
    cacheLimitBytes: 64e9,
  })
  await mkdir(values.output, { recursive: true })
  const sheets = { 'image-to-image': imageToImage, inpaint, outpaint, styles, assets }
  for (const [name, make] of Object.entries(sheets)) if (name.includes(values.only)) await make(engine, name)
} finally {
  await rm(folder, { recursive: true, force: true })
}

async function imageToImage(engine: EngineProcess, name: string): Promise<void> {
  const original = await paint(engine, { prompt: 'a fish on a dark blue background', seed: 2 })
  const image = await stored(original)
  const cells = [{ label: 'the picture', picture: original }]
  for (const strength of [0.2, 0.4, 0.6, 0.8, 1]) {
    const start = { mode: 'imageToImage', image, strength } as const
    const picture = await paint(engine, { prompt: 'a balloon on a pink background', seed: 3, start })
    cells.push({ label: `--strength ${strength}`, picture })
  }
  await saveSheet(name, cells, { columns: 6, width: 208, height: 208 })
}

async function inpaint(engine: EngineProcess, name: string): Promise<void> {
  const orders = [
    {
      original: { prompt: 'a red apple on a light blue background', seed: 4 },
      mask: shape('<rect x="150" y="110" width="740" height="810" rx="120" fill="#fff"/>'),
      prompt: 'a balloon on a light blue background',
      seed: 3,
      strength: 1,
      fullResPadding: null,
      label: '--mask',
    },
    {
      original: { prompt: 'a balloon on a pink background', seed: 4 },
      mask: shape('<rect x="40" y="40" width="290" height="290" rx="60" fill="#fff"/>'),
      prompt: 'a balloon on a pink background',
      seed: 3,
      strength: 1,
      fullResPadding: 32,
      label: '--mask --full-res',
    },
  ]
  const cells: Cell[] = []
  for (const { fullResPadding, label, prompt, seed, strength, ...given } of orders) {
    const original = await paint(engine, given.original)
    const mask = await sharp(given.mask).png().toBuffer()
    const start = {
      mode: 'inpaint',
      image: await stored(original),
      mask: await stored(mask),
      strength,
      fullResPadding,
    } as const
    const picture = await paint(engine, { prompt, seed, start })
    cells.push(
      { label: 'the picture', picture: original },
      { label: 'the mask', picture: mask },
      { label, picture },
      { label: 'what changed', picture: await changes(original, picture) },
    )
  }
  await saveSheet(name, cells, { columns: 4, width: 312, height: 312 })
}

async function outpaint(engine: EngineProcess, name: string): Promise<void> {
  const order = { prompt: 'a fish on a dark blue background', seed: 2 }
  const original = await paint(engine, order)
  const directions: readonly Sides[] = [
    { left: 256, top: 0, right: 0, bottom: 0 },
    { left: 0, top: 256, right: 0, bottom: 0 },
    { left: 0, top: 0, right: 256, bottom: 0 },
    { left: 0, top: 0, right: 0, bottom: 256 },
    { left: 192, top: 192, right: 192, bottom: 192 },
  ]
  const cells = [{ label: 'the picture', picture: original }]
  for (const sides of directions) {
    const { data } = await sharp(original).removeAlpha().raw().toBuffer({ resolveWithObject: true })
    const canvas = expandCanvas({ width: edge, height: edge, data }, sides)
    const { height, width } = canvas.image
    const image = await sharp(canvas.image.data, { raw: { width, height, channels: 3 } })
      .png()
      .toBuffer()
    const mask = await sharp(canvas.mask.data, { raw: { width, height, channels: 1 } })
      .png()
      .toBuffer()
    const start = { mode: 'outpaint', image: await stored(image), mask: await stored(mask), strength: 0.8 } as const
    const picture = await paint(engine, { ...order, seed: 3, width, height, start })
    cells.push({ label: `--outpaint ${Object.values(sides).join(',')}`, picture })
  }
  await saveSheet(name, cells, { columns: 3, width: 352, height: 352 })
}

async function styles(engine: EngineProcess, name: string): Promise<void> {
  const cells: Cell[] = []
  for (const style of stylePresetNames) {
    const texts = { prompt: 'a red apple', prompt2: null, negativePrompt: null, negativePrompt2: null }
    const { negativePrompt, prompt } = applyStyle(style, texts)
    const order = { prompt, negativePrompt, seed: 1, numInferenceSteps: 15 }
    cells.push({ label: style, picture: await paint(engine, order) })
  }
  await saveSheet(name, cells, { columns: 8, width: 168, height: 128 })
}

async function assets(engine: EngineProcess, name: string): Promise<void> {
  const lora = await shipped('lora/pocket-blueprint')
  const textualInversions = [{ asset: await shipped('textual_inversion/pocket-sepia'), trigger: 'oldphoto' }]
  const [blueprint, photo] = ['a blueprint of a cat', 'a cat, oldphoto']
  const cells = [
    { label: blueprint, order: { prompt: blueprint } },
    { label: '--lora pocket-blueprint:0.5', order: { prompt: blueprint, loras: [{ asset: lora, scale: 0.5 }] } },
    { label: '--lora pocket-blueprint', order: { prompt: blueprint, loras: [{ asset: lora, scale: 1 }] } },
    { label: photo, order: { prompt: photo } },
    { label: '--ti pocket-sepia=oldphoto', order: { prompt: photo, textualInversions } },
    { label: '… (oldphoto:0.6)', order: { prompt: 'a cat, (oldphoto:0.6)', textualInversions } },
  ]
  const painted: Cell[] = []
  for (const { label, order } of cells) painted.push({ label, picture: await paint(engine, { ...order, seed: 1 }) })
  await saveSheet(name, painted, { columns: 3, width: 256, height: 256 })
}

/** The name in tasks of a file that ships. */
async function shipped(name: string): Promise<string> {
  const file = path.join(shippedAssets, `${name}.safetensors`)
  const hash = hashOf(await readFile(file))
  files[hash] = file
  return hash
}

function hashOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

/** One picture of the shipped model, as a PNG. */
async function paint(engine: EngineProcess, { seed, ...order }: Order): Promise<Uint8Array> {
  const painted: Uint8Array[] = []
  const task = pictureTask({
    width: edge,
    height: edge,
    numInferenceSteps: 25,
    guidanceScale: 12,
    sampler: 'DDIM',
    seeds: [seed],
    ...order,
  })
  const checkpoint = path.join(import.meta.dirname, '../models/pocket')
  const { warnings } = await engine.generate(
    task,
    { checkpoint, refiner: null, pictures, assets: files },
    { onImage: (_index, _seed, bytes) => void painted.push(bytes) },
  )
  process.stderr.write(`${[task.prompt, task.start.mode, ...warnings].join(' · ')}\n`)
  return painted[0]
}

/** Keep an encoded picture for the engine, and give its name in tasks. */
async function stored(picture: Uint8Array): Promise<string> {
  const hash = hashOf(picture)
  pictures[hash] = path.join(folder, hash)
  await writeFile(pictures[hash], picture)
  return hash
}

/** Black, with white shapes. */
function shape(svg: string): Buffer {
  return Buffer.from(
    `<svg xmlns="http://www.w3.org/2000/svg" width="${edge}" height="${edge}"><rect width="100%" height="100%"/>${svg}</svg>`,
  )
}

/** White where any bit of a pixel differs. */
async function changes(a: Uint8Array, b: Uint8Array): Promise<Uint8Array> {
  const [first, second] = await Promise.all([a, b].map((png) => sharp(png).removeAlpha().raw().toBuffer()))
  const differs = new Uint8Array(edge * edge)
  for (let i = 0; i < first.length; i++) if (first[i] !== second[i]) differs[Math.floor(i / 3)] = 255
  return sharp(differs, { raw: { width: edge, height: edge, channels: 1 } })
    .png()
    .toBuffer()
}

type Layout = { readonly columns: number; readonly width: number; readonly height: number }

async function saveSheet(name: string, cells: readonly Cell[], { columns, width, height }: Layout): Promise<void> {
  const layers: OverlayOptions[] = []
  for (const [index, { label, picture }] of cells.entries()) {
    const left = gap + (index % columns) * (width + gap)
    const top = gap + Math.floor(index / columns) * (height + labelHeight + gap)
    const fit = { fit: 'contain', background: 'white', position: 'bottom' } as const
    layers.push({ input: labelOf(label, width), left, top })
    layers.push({
      input: await sharp(picture).resize(width, height, fit).png().toBuffer(),
      left,
      top: top + labelHeight,
    })
  }
  const rows = Math.ceil(cells.length / columns)
  const sheet = {
    width: gap + columns * (width + gap),
    height: gap + rows * (height + labelHeight + gap),
    channels: 3,
    background: 'white',
  } as const
  await sharp({ create: sheet })
    .composite(layers)
    .jpeg({ quality: 84, chromaSubsampling: '4:4:4' })
    .toFile(path.join(values.output!, `${name}.jpg`))
}

function labelOf(text: string, width: number): Buffer {
  return Buffer.from(
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${labelHeight}">` +
      `<text x="2" y="18" font-family="sans-serif" font-size="14">${text}</text></svg>`,
  )
}
