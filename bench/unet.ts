// One evaluation of a checkpoint's UNet: seconds, load, memory; beside a prototype in the same minutes, and against torch.
//
//   node bench/unet.ts --model FILE|FOLDER [--sizes 1024,512] [--rounds 2] [--runs 2] [--cache DIR] [--threads N]
//                      [--backend onnxruntime|openvino] [--precision fp32|fp16|bf16|int8]
//                      [--prototype FOLDER]   a folder with unet.js, run as `node unet.js f32 LATENTS 1 extended 1`
//                      [--compare FILE]       inputs and noise_pred of `tools/reference/real_size.py forward`;
//                                             [--tolerance 1e-3] is the relative error that passes
//
// Every measurement is a process of its own with --runs evaluations; ours and the prototype's take turns, because the speed
// of a machine drifts. The table gives the smallest time of all rounds.
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { backendNames, precisions } from '#engine/backend.ts'
import { addEmbeds } from '#engine/models/time-embedding.ts'
import { UNet } from '#engine/networks/unet.ts'
import { openvinoFolders } from '#cli/backend-places.ts'
import { calibrateModel } from '#worker/calibrate.ts'
import { needsCalibration } from '#worker/network-quantization.ts'
import { PipelineCache } from '#worker/pipeline-cache.ts'
import { createScratch, removeScratch } from '#worker/scratch-folder.ts'
import { TorchGenerator } from '#tensor/random.ts'
import { openSafetensors, readTensorF32 } from '#tensor/safetensors.ts'
import { tensor, type Tensor } from '#tensor/tensor.ts'
import { resolveConfig } from '../src/config.ts'
import { tableOf } from './table.ts'
import { timedRuns } from './timed-runs.ts'

const { values } = parseArgs({
  options: {
    model: { type: 'string' },
    sizes: { type: 'string', default: '1024,512' },
    rounds: { type: 'string', default: '2' },
    runs: { type: 'string', default: '2' },
    cache: { type: 'string', default: '.bench-cache' },
    threads: { type: 'string', default: String(availableParallelism()) },
    backend: { type: 'string', default: 'onnxruntime' },
    precision: { type: 'string', default: 'fp32' },
    tolerance: { type: 'string', default: '1e-3' },
    prototype: { type: 'string' },
    compare: { type: 'string' },
    once: { type: 'string' },
    turns: { type: 'boolean', default: false },
  },
})

type Measurement = { loadSeconds: number; seconds: number[]; privateMb: number; mappedMb: number }
type Inputs = { sample: Tensor; timestep: number; encoderHiddenStates: Tensor; textEmbeds: Tensor; timeIds: number[] }

/** As the engine loads it: on OpenVINO one UNet is for prompts of any length. */
const textLength = values.backend === 'openvino' ? null : 77

if (!values.model) throw new Error('--model FILE|FOLDER is missing')
if (values.compare) await compare(values.model, values.compare)
else if (values.once) process.stdout.write(JSON.stringify(await measure(values.model, Number(values.once))))
else await table(values.model)

/** The table of all sizes. */
async function table(model: string): Promise<void> {
  const rows: string[][] = []
  await prepare(model)
  for (const pixels of values.sizes.split(',').map(Number)) {
    const latents = pixels / 8
    const ours: Measurement[] = []
    const theirs: Measurement[] = []
    for (let round = 0; round < Number(values.rounds); round++) {
      ours.push(JSON.parse(runNode([...process.argv.slice(1), '--once', String(latents)], '.')) as Measurement)
      if (values.prototype) theirs.push(prototype(values.prototype, latents))
      process.stderr.write(`${pixels}²: round ${round + 1} of ${values.rounds}\n`)
    }
    const best = fastest(ours)
    rows.push([`${pixels}²`, 'sepia', ...cells(best), ''])
    if (theirs.length === 0) continue
    const other = fastest(theirs)
    const ratio = `${(best.seconds[0] / other.seconds[0]).toFixed(2)} ×`
    rows.push([`${pixels}²`, 'prototype', ...cells(other), ratio])
  }
  process.stdout.write(
    tableOf(['size', 'what', 's a forward', 'load s', 'private MB', 'mapped MB', 'sepia / prototype'], rows),
  )
}

/** Make the prepared weights, so that no measurement pays for them. */
async function prepare(model: string): Promise<void> {
  await withUNet(model, { batch: 1, height: 16, width: 16, textLength }, async () => {})
}

async function measure(model: string, latents: number): Promise<Measurement> {
  const options = { batch: 1, height: latents, width: latents, textLength }
  return await withUNet(model, options, async (unet, loadSeconds) => {
    const inputs = randomInputs(unet, latents)
    const seconds = await timedRuns(Number(values.runs), values.turns, async () => {
      await predict(unet, inputs)
    })
    return { loadSeconds, seconds, ...memory() }
  })
}

/** Relative error of one evaluation against the reference's. */
async function compare(model: string, file: string): Promise<void> {
  const opened = await openSafetensors(file)
  const read = async (name: string): Promise<Tensor> => {
    const { dtype, length, offset, shape } = opened.tensors.get(name)!
    if (dtype !== 'F32') throw new Error(`${name} is ${dtype}`)
    return await readTensorF32({ dtype, shape, source: { file, offset, length } })
  }
  const sample = await read('sample')
  const expected = await read('noise_pred')
  const inputs: Inputs = {
    sample,
    timestep: (await read('timestep')).data[0],
    encoderHiddenStates: await read('encoder_hidden_states'),
    textEmbeds: await read('text_embeds'),
    timeIds: [...(await read('time_ids')).data],
  }
  const [, , height, width] = sample.shape
  await withUNet(model, { batch: 1, height, width, textLength }, async (unet) => {
    const { data } = await predict(unet, inputs)
    let difference = 0
    let norm = 0
    let largest = 0
    for (let i = 0; i < data.length; i++) {
      difference += (data[i] - expected.data[i]) ** 2
      norm += expected.data[i] ** 2
      largest = Math.max(largest, Math.abs(data[i] - expected.data[i]))
    }
    const relative = Math.sqrt(difference / norm)
    process.stdout.write(
      `UNet forward at ${width * 8}×${height * 8}: relative error ${relative.toExponential(2)}, largest ${largest.toExponential(2)}\n`,
    )
    if (!(relative <= Number(values.tolerance))) process.exitCode = 1
  })
}

async function predict(unet: UNet, inputs: Inputs): Promise<Tensor> {
  const embeds = addEmbeds(unet.config, inputs.textEmbeds, [inputs.timeIds])
  return await unet.predict(inputs.sample, inputs.timestep, {
    promptEmbeds: inputs.encoderHiddenStates,
    addEmbeds: embeds,
  })
}

function randomInputs({ config }: UNet, latents: number): Inputs {
  const generator = new TorchGenerator(1)
  const pooled = config.addEmbeddingInputDim - 6 * config.additionTimeEmbedDim
  const pixels = latents * 8
  return {
    sample: generator.randn([1, config.inChannels, latents, latents]),
    timestep: 601,
    encoderHiddenStates: generator.randn([1, 77, config.crossAttentionDim]),
    textEmbeds: tensor([1, pooled], generator.randn([1, pooled]).data),
    timeIds: [pixels, pixels, 0, 0, pixels, pixels],
  }
}

async function withUNet<T>(
  model: string,
  options: Parameters<typeof UNet.load>[1],
  use: (unet: UNet, loadSeconds: number) => Promise<T>,
): Promise<T> {
  const cacheDir = path.resolve(values.cache)
  const scratchDir = await createScratch(cacheDir)
  const settings = {
    device: 'cpu',
    backend: oneOf('backend', values.backend, backendNames),
    precision: oneOf('precision', values.precision, precisions),
    threads: Number(values.threads),
    openvinoFolders: openvinoFolders(resolveConfig(process.env)),
    cacheDir,
    cacheLimitBytes: 64e9,
    scratchDir,
  } as const
  try {
    await using pipelines = new PipelineCache(settings)
    const opened = await pipelines.open(path.resolve(model), () => {})
    if (needsCalibration(await pipelines.choice())) await calibrateModel(opened, pipelines, () => {}, console.warn)
    const start = performance.now()
    const request = { kind: 'unet', component: opened.checkpoint.unet, options, activationBytes: 0 } as const
    const unet = await pipelines.network(opened, { ...request, load: (...args) => UNet.load(...args) }, () => {})
    return await use(unet, (performance.now() - start) / 1000)
  } finally {
    await removeScratch(scratchDir)
  }
}

function oneOf<T extends string>(name: string, value: string, known: readonly T[]): T {
  const found = known.find((one) => one === value)
  if (!found) throw new Error(`--${name} is one of ${known.join(', ')}`)
  return found
}

function prototype(folder: string, latents: number): Measurement {
  const text = runNode(['unet.js', 'f32', String(latents), '1', 'extended', '1'], folder)
  const numbers = (pattern: RegExp): number[] => [...text.matchAll(pattern)].map((match) => Number(match[1]))
  return {
    loadSeconds: numbers(/load (\d+) ms/g)[0] / 1000,
    seconds: numbers(/run ([\d.]+) s/g),
    privateMb: numbers(/anon (\d+)/g).at(-1)!,
    mappedMb: numbers(/file (\d+)/g).at(-1)!,
  }
}

function runNode(args: string[], cwd: string): string {
  return execFileSync(process.execPath, args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
}

/** The measurement with the fastest single evaluation, its times sorted. */
function fastest(measurements: readonly Measurement[]): Measurement {
  const sorted = measurements.map((one) => ({ ...one, seconds: one.seconds.toSorted((a, b) => a - b) }))
  return sorted.toSorted((a, b) => a.seconds[0] - b.seconds[0])[0]
}

function cells({ loadSeconds, seconds, privateMb, mappedMb }: Measurement): string[] {
  return [seconds[0].toFixed(2), loadSeconds.toFixed(2), privateMb.toFixed(0), mappedMb.toFixed(0)]
}

/** Anonymous and file-backed resident memory of this process, from /proc (Linux). */
function memory(): { privateMb: number; mappedMb: number } {
  const status = readFileSync('/proc/self/status', 'utf8')
  const megabytes = (key: string): number => Number(new RegExp(`${key}:\\s+(\\d+)`).exec(status)![1]) / 1024
  return { privateMb: megabytes('RssAnon'), mappedMb: megabytes('RssFile') }
}
