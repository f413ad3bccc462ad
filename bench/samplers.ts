// A contact sheet: what each sampler makes of the same prompt and seed at 4, 8, 16, 30 and 50 steps. For looking at.
//
//   node bench/samplers.ts --output SHEET.png|SHEET.jpg [--model FILE|FOLDER] [--prompt TEXT] [--seed 1] [--cfg 7]
//                          [--size 512] [--steps 4,8,16,30,50] [--only TEXT] [--tile 192] [--cache DIR] [--threads N]
import { availableParallelism } from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import sharp, { type OverlayOptions } from 'sharp'
import { samplerNames } from '#diffusion/samplers.ts'
import { EngineProcess } from '#worker/engine-process.ts'
import { pictureTask } from '../test/support/picture-task.ts'

const { values } = parseArgs({
  options: {
    output: { type: 'string' },
    model: { type: 'string', default: path.join(import.meta.dirname, '../models/pocket') },
    prompt: { type: 'string', default: 'a red apple on a light blue background' },
    seed: { type: 'string', default: '1' },
    cfg: { type: 'string', default: '7' },
    size: { type: 'string', default: '512' },
    steps: { type: 'string', default: '4,8,16,30,50' },
    only: { type: 'string', default: '' },
    tile: { type: 'string', default: '192' },
    cache: { type: 'string', default: '.bench-cache' },
    threads: { type: 'string', default: String(availableParallelism()) },
  },
})
if (values.output === undefined) throw new Error('--output SHEET.png|SHEET.jpg is missing')

const size = Number(values.size)
const tile = Number(values.tile)
const labelWidth = 300
const headHeight = 32
const stepCounts = values.steps.split(',').map(Number)
const names = samplerNames.filter((name) => name.includes(values.only))

const layers: OverlayOptions[] = stepCounts.map((steps, column) => ({
  input: label(`${steps} steps`, tile, headHeight),
  left: labelWidth + column * tile,
  top: 0,
}))
await using engine = await EngineProcess.start({
  device: 'cpu',
  backend: 'onnxruntime',
  precision: 'fp32',
  threads: Number(values.threads),
  cacheDir: path.resolve(values.cache),
  cacheLimitBytes: 64e9,
})
for (const [row, sampler] of names.entries()) {
  const top = headHeight + row * tile
  layers.push({ input: label(sampler, labelWidth, tile), left: 0, top })
  for (const [column, numInferenceSteps] of stepCounts.entries()) {
    const input = await sharp(await picture(sampler, numInferenceSteps))
      .resize(tile)
      .png()
      .toBuffer()
    layers.push({ input, left: labelWidth + column * tile, top })
    process.stderr.write(`${sampler} ${numInferenceSteps}\n`)
  }
}
await sharp({
  create: {
    width: labelWidth + stepCounts.length * tile,
    height: headHeight + names.length * tile,
    channels: 3,
    background: 'white',
  },
})
  .composite(layers)
  .toFile(values.output)

async function picture(sampler: (typeof names)[number], numInferenceSteps: number): Promise<Uint8Array> {
  const pictures: Uint8Array[] = []
  await engine.generate(
    pictureTask({
      prompt: values.prompt,
      width: size,
      height: size,
      numInferenceSteps,
      guidanceScale: Number(values.cfg),
      sampler,
      seeds: [Number(values.seed)],
    }),
    { checkpoint: path.resolve(values.model), refiner: null, pictures: {}, assets: {} },
    {
      onImage: async (_index, _seed, bytes) => {
        pictures.push(bytes)
      },
    },
  )
  return pictures[0]
}

function label(text: string, width: number, height: number): Buffer {
  return Buffer.from(
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}">` +
      `<text x="8" y="${height / 2 + 5}" font-family="monospace" font-size="15">${text}</text></svg>`,
  )
}
