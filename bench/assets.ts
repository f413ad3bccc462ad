// What custom files cost: a large upload beside a bare handler, LoRAs by rank and number beside a step without, changing from
// one to another, checkpoints cold and warm, and memory over many requests that change both.
//
//   npx node bench/assets.ts [--upload 7e9] [--steps 10] [--size 512] [--requests 200] [--checkpoints 5] [--loras 20]
//                            [--model FOLDER|FILE] [--only upload,lora,switch,alternate] [--threads N] [--cache FOLDER]
import { cpSync, mkdirSync, mkdtempSync, rmSync, statSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { EngineProcess } from '#worker/engine-process.ts'
import { privateMemory } from '#worker/private-memory.ts'
import type { GenerateResult, TaskLora } from '#worker/protocol.ts'
import { openSafetensors } from '#tensor/safetensors.ts'
import { writeLora } from './assets/lora-files.ts'
import { measureUploads } from './assets/uploads.ts'
import { tableOf } from './table.ts'
import { pictureTask } from '../test/support/picture-task.ts'

const { values } = parseArgs({
  options: {
    upload: { type: 'string', default: '7e9' },
    steps: { type: 'string', default: '10' },
    size: { type: 'string', default: '512' },
    requests: { type: 'string', default: '200' },
    checkpoints: { type: 'string', default: '5' },
    loras: { type: 'string', default: '20' },
    cache: { type: 'string' },
    model: { type: 'string', default: path.join(import.meta.dirname, '../models/pocket') },
    only: { type: 'string', default: 'upload,lora,switch,alternate' },
    threads: { type: 'string', default: String(availableParallelism()) },
  },
})
const [uploadBytes, steps, size, requests] = [values.upload, values.steps, values.size, values.requests].map(Number)
const [checkpointCount, loraCount] = [values.checkpoints, values.loras].map(Number)
const parts = new Set(values.only.split(','))
const tinyWide = path.join(import.meta.dirname, '../test/golden/wide-model/tiny-wide')
const folder = mkdtempSync(path.join(tmpdir(), 'sepia-bench-'))
const assets: Record<string, string> = {}

const startEngine = (): Promise<EngineProcess> =>
  EngineProcess.start({
    device: 'cpu',
    backend: 'onnxruntime',
    precision: 'fp32',
    threads: Number(values.threads),
    cacheDir: values.cache ?? path.join(folder, 'cache'),
    cacheLimitBytes: 64e9,
  })

/** A picture with some LoRAs; its time is what we look at. */
function generate(
  engine: EngineProcess,
  loras: readonly TaskLora[],
  {
    checkpoint = values.model,
    count = steps,
    seeds = [1],
  }: { checkpoint?: string; count?: number; seeds?: number[] } = {},
): Promise<GenerateResult> {
  const task = pictureTask({
    prompt: 'a red apple',
    width: size,
    height: size,
    numInferenceSteps: count,
    guidanceScale: 5,
    sampler: 'K_EULER',
    seeds,
    loras,
    imageEncoding: 'jpeg',
  })
  return engine.generate(task, { checkpoint, refiner: null, pictures: {}, assets })
}

const median = (numbers: readonly number[]): number => numbers.toSorted((a, b) => a - b)[numbers.length >> 1]
const megabytes = (bytes: number | null): string => (bytes === null ? '' : (bytes / 1e6).toFixed(0))
const memoryOf = (engine: EngineProcess): number | null => (engine.pid === undefined ? null : privateMemory(engine.pid))

/** A LoRA of the bench; the engine knows files by the hash that we say they have. */
async function lora(rank: number, index: number): Promise<TaskLora> {
  const asset = `${rank.toString(16).padStart(4, '0')}${index.toString(16).padStart(60, '0')}`
  assets[asset] ??= path.join(folder, `lora-${rank}-${index}.safetensors`)
  await writeLora(values.model, rank, assets[asset])
  return { asset, scale: 0.8 }
}

async function uploads(): Promise<void> {
  const rows = (await measureUploads(uploadBytes, tinyWide)).map(({ what, seconds, privateBytes }, index) => {
    const bytes = index === 1 ? 1 << 20 : uploadBytes
    return [
      what,
      (bytes / 1e6).toFixed(0),
      seconds.toFixed(2),
      (bytes / 1e6 / seconds).toFixed(0),
      megabytes(privateBytes),
    ]
  })
  console.log(tableOf(['what', 'MB', 's', 'MB/s', 'private MB, most'], rows))
}

/** The quickest step of each way in turn, several times: other work on the machine makes steps slower and none quicker. */
async function loraCosts(): Promise<void> {
  await using engine = await startEngine()
  await generate(engine, [])
  const rows: string[][] = []
  const counts = [
    [4, 1],
    [16, 1],
    [64, 1],
    [16, 4],
    [16, 8],
  ] as const
  for (const [rank, count] of counts) {
    const first = await Promise.all(Array.from({ length: count }, (_, index) => lora(rank, index)))
    const second = await Promise.all(Array.from({ length: count }, (_, index) => lora(rank, 100 + index)))
    const load = async (loras: readonly TaskLora[]): Promise<number> =>
      (await generate(engine, loras, { count: 1 })).timings.loadMs
    const cold = await load(first)
    const changes = [await load(second), await load(first), await load(second)]
    const quickest = { without: Infinity, with: Infinity }
    for (let round = 0; round < 3; round++) {
      quickest.without = Math.min(quickest.without, ...(await generate(engine, [])).timings.stepMs)
      quickest.with = Math.min(quickest.with, ...(await generate(engine, second)).timings.stepMs)
    }
    const beside = `${(quickest.with / quickest.without).toFixed(2)} ×`
    const ms = [quickest.without, quickest.with].map((one) => one.toFixed(1))
    rows.push([`${count}`, `${rank}`, ...ms, beside, cold.toFixed(0), Math.min(...changes).toFixed(0)])
  }
  console.log(
    tableOf(['LoRAs', 'rank', 'ms a step without', 'with', 'beside without', 'first use, ms', 'change, ms'], rows),
  )
}

/** Copies of the model whose UNets differ in one number, so that nothing of one serves another; of a single file, itself and copies. */
async function checkpoints(): Promise<string[]> {
  const single = statSync(values.model).isFile()
  const found: string[] = []
  for (let index = 0; index < checkpointCount; index++) {
    if (single && index === 0) {
      found.push(values.model)
      continue
    }
    const copy = path.join(folder, `checkpoint-${index}${single ? '.safetensors' : ''}`)
    cpSync(values.model, copy, { recursive: true })
    const file = single ? copy : path.join(copy, 'unet/diffusion_pytorch_model.safetensors')
    const { tensors } = await openSafetensors(file)
    const { offset } = tensors.get(single ? 'model.diffusion_model.out.2.bias' : 'conv_out.bias')!
    await using handle = await open(file, 'r+')
    await handle.write(Buffer.from([index]), 0, 1, offset)
    found.push(copy)
  }
  return found
}

async function switches(models: readonly string[]): Promise<void> {
  await using engine = await startEngine()
  const rows: string[][] = []
  for (const round of ['first time ever', 'back again', 'back again'])
    for (const [index, checkpoint] of models.slice(0, 2).entries()) {
      const { loadMs, stepMs } = (await generate(engine, [], { checkpoint, count: 2 })).timings
      rows.push([`${index + 1}`, round, loadMs.toFixed(0), median(stepMs).toFixed(0), megabytes(memoryOf(engine))])
    }
  await using fresh = await startEngine()
  const { loadMs, stepMs } = (await generate(fresh, [], { checkpoint: models[0], count: 2 })).timings
  rows.push(['1', 'a new process', loadMs.toFixed(0), median(stepMs).toFixed(0), megabytes(memoryOf(fresh))])
  console.log(tableOf(['checkpoint', 'when', 'load ms', 'ms a step', 'private MB'], rows))
}

async function alternate(models: readonly string[]): Promise<void> {
  await using engine = await startEngine()
  const loras = await Promise.all(Array.from({ length: loraCount }, (_, index) => lora(8, index)))
  const rows: string[][] = []
  const beganMs = performance.now()
  for (let index = 0; index < requests; index++) {
    const checkpoint = models[index % models.length]
    await generate(engine, [loras[index % loras.length]], { checkpoint, count: 1, seeds: [index] })
    if ((index + 1) % Math.ceil(requests / 8) === 0 || index + 1 === requests)
      rows.push([`${index + 1}`, ((performance.now() - beganMs) / (index + 1)).toFixed(0), megabytes(memoryOf(engine))])
  }
  console.log(tableOf(['requests', 'ms each', 'private MB'], rows))
}

mkdirSync(folder, { recursive: true })
try {
  if (parts.has('upload')) await uploads()
  if (parts.has('lora')) await loraCosts()
  const models = parts.has('switch') || parts.has('alternate') ? await checkpoints() : []
  if (parts.has('switch')) await switches(models)
  if (parts.has('alternate')) await alternate(models)
} finally {
  rmSync(folder, { recursive: true, force: true })
}
