// How far rounded precisions are from fp32: the picture's PSNR, and the relative error of the UNet's output at each step.
//
//   node bench/fidelity.ts [--models FOLDER,…] [--size 1024] [--steps 20] [--cfg 7] [--precisions bf16,int8] [--seeds 1,2]
//                          [--sheet FILE.png] [--cache DIR] [--threads N]
//
// fp32 runs on onnxruntime, the others on OpenVINO; `ort:int8` runs on onnxruntime. The sheet shows a row a picture: fp32,
// then the others in their order.
import { availableParallelism } from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import sharp from 'sharp'
import { openvinoFolders } from '#cli/backend-places.ts'
import { precisions } from '#engine/backend.ts'
import type { Pixels } from '#image/codec.ts'
import type { EngineSettings, GenerateTask } from '#worker/protocol.ts'
import { createScratch, removeScratch } from '#worker/scratch-folder.ts'
import { resolveConfig } from '../src/config.ts'
import { exactPicture, fidelityOf } from '../test/support/fidelity.ts'
import { tableOf } from './table.ts'
import { pictureTask } from '../test/support/picture-task.ts'

const { values } = parseArgs({
  options: {
    models: { type: 'string', default: path.join(import.meta.dirname, '../models/pocket') },
    size: { type: 'string', default: '1024' },
    steps: { type: 'string', default: '20' },
    cfg: { type: 'string', default: '7' },
    precisions: { type: 'string', default: 'bf16,int8' },
    seeds: { type: 'string', default: '1,2' },
    sheet: { type: 'string' },
    cache: { type: 'string', default: '.bench-cache' },
    threads: { type: 'string', default: String(availableParallelism()) },
  },
})

const prompts = ['a red apple on a light blue background', 'a yellow star on a dark green background']

function taskOf(seed: number, index: number): GenerateTask {
  return pictureTask({
    prompt: prompts[index % prompts.length],
    width: Number(values.size),
    height: Number(values.size),
    numInferenceSteps: Number(values.steps),
    guidanceScale: Number(values.cfg),
    sampler: 'DDIM',
    seeds: [seed],
    imageEncoding: 'jpeg',
  })
}

const cacheDir = path.resolve(values.cache)
const scratchDir = await createScratch(cacheDir)
const common = {
  device: 'cpu',
  threads: Number(values.threads),
  cacheDir,
  cacheLimitBytes: 64e9,
  scratchDir,
  openvinoFolders: openvinoFolders(resolveConfig(process.env)),
} as const

const rows: string[][] = []
const sheet: Pixels[][] = []
try {
  for (const model of values.models.split(','))
    for (const [index, seed] of values.seeds.split(',').map(Number).entries()) {
      const task = taskOf(seed, index)
      const files = { checkpoint: path.resolve(model), refiner: null, pictures: {}, assets: {} }
      const exact = await exactPicture(task, files, { ...common, backend: 'onnxruntime', precision: 'fp32' })
      sheet.push([exact.pixels])
      for (const name of values.precisions.split(',')) {
        const { pixels, psnr, stepErrors } = await fidelityOf(task, files, { ...common, ...engineOf(name) }, exact)
        sheet.at(-1)!.push(pixels)
        const mean = stepErrors.reduce((sum, error) => sum + error, 0) / stepErrors.length
        const errors = [stepErrors[0], mean, Math.max(...stepErrors)].map((error) => error.toExponential(1))
        rows.push([path.basename(model), String(seed), name, psnr.toFixed(1), ...errors])
        process.stderr.write(`${rows.at(-1)!.join('  ')}\n`)
      }
    }
} finally {
  await removeScratch(scratchDir)
}
process.stdout.write(
  tableOf(['model', 'seed', 'precision', 'PSNR, dB', 'first step', 'mean', 'largest error of a step'], rows),
)
if (values.sheet) await writeSheet(values.sheet)

function engineOf(name: string): Pick<EngineSettings, 'backend' | 'precision'> {
  const [, onOnnxruntime, wanted] = /^(ort:)?(.*)$/.exec(name)!
  const precision = precisions.find((one) => one === wanted)
  if (!precision) throw new Error(`--precisions: "${name}" is none of ${precisions.join(', ')}`)
  return { precision, backend: onOnnxruntime ? 'onnxruntime' : 'openvino' }
}

async function writeSheet(file: string): Promise<void> {
  const edge = 384
  const pictures = await Promise.all(
    sheet.flatMap((row, y) =>
      row.map(async ({ data, height, width }, x) => {
        const raw = sharp(data, { raw: { width, height, channels: 3 } })
        return { input: await raw.resize(edge, edge).png().toBuffer(), left: x * (edge + 8), top: y * (edge + 8) }
      }),
    ),
  )
  const [columns, lines] = [Math.max(...sheet.map((row) => row.length)), sheet.length]
  const size = { width: columns * (edge + 8) - 8, height: lines * (edge + 8) - 8, channels: 3 as const }
  await sharp({ create: { ...size, background: 'white' } })
    .composite(pictures)
    .png()
    .toFile(file)
}
