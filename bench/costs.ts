// What an evaluation of the network costs with each sampler and mode, beside DDIM's text to image, and how much of it is our own code: everything
// but the calls of onnxruntime. The engine runs in this process, so that its calls can be timed. So that other programs
// change little, the library's time is the processors', shared by its threads, and every figure is that of a quiet
// evaluation: a quarter of them took less.
//
//   node bench/costs.ts [--model FILE|FOLDER] [--steps 20] [--size 1024] [--cfg 7] [--rounds 3] [--only TEXT]
//                       [--refiner FILE|FOLDER] [--cache DIR] [--threads N]
//
// --steps counts evaluations of the network; samplers with two a step take half as many. Rounds alternate between the
// ways; each picture's first evaluation is left out. With --refiner, one that fits the model, there is a row for it.
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { InferenceSession } from 'onnxruntime-node'
import { samplerNames, samplers } from '#diffusion/samplers.ts'
import { PipelineCache } from '#worker/pipeline-cache.ts'
import type { GenerateTask } from '#worker/protocol.ts'
import { runGenerate } from '#worker/run-generate.ts'
import { tableOf } from './table.ts'
import { pictureTask } from '../test/support/picture-task.ts'

const { values } = parseArgs({
  options: {
    model: { type: 'string', default: path.join(import.meta.dirname, '../models/pocket') },
    steps: { type: 'string', default: '20' },
    size: { type: 'string', default: '1024' },
    cfg: { type: 'string', default: '7' },
    rounds: { type: 'string', default: '3' },
    only: { type: 'string', default: '' },
    refiner: { type: 'string' },
    cache: { type: 'string', default: '.bench-cache' },
    threads: { type: 'string', default: String(availableParallelism()) },
  },
})

/** What pictures start from. */
const inputs = path.join(import.meta.dirname, '../test/golden/modes/inputs')
const pictures = {
  picture: path.join(inputs, 'picture-1024x1024.png'),
  mask: path.join(inputs, 'mask-1024x1024.png'),
}

/** One row: a way to make a picture. */
type Way = { readonly name: string; readonly task: Partial<GenerateTask> }

const wanted = Number(values.steps)
const picture = { image: 'picture', strength: 1 }
const modes: readonly Way[] = [
  { name: 'DDIM, image to image', task: { start: { mode: 'imageToImage', ...picture } } },
  { name: 'DDIM, inpainting', task: { start: { mode: 'inpaint', ...picture, mask: 'mask', fullResPadding: null } } },
  { name: 'DDIM, with previews', task: { previews: true } },
  ...(values.refiner === undefined
    ? []
    : [{ name: 'DDIM, with the refiner', task: { refiner: { denoisingEnd: 0.5 } } }]),
]
const bySampler = samplerNames.map((sampler) => ({
  name: sampler,
  task: { sampler, numInferenceSteps: Math.ceil(wanted / samplers[sampler].order) },
}))
const ways = [...bySampler, ...modes].filter(({ name }) => name.includes(values.only) || name === 'DDIM')

const base = pictureTask({
  prompt: 'a red apple on a light blue background',
  width: Number(values.size),
  height: Number(values.size),
  numInferenceSteps: wanted,
  guidanceScale: Number(values.cfg),
  sampler: 'DDIM',
  seeds: [1],
  imageEncoding: 'jpeg',
})

// Time inside the library: its method is wrapped for the whole of this process. Its types hide that it is a class.
const inside = { wallMs: 0, cpuMs: 0 }
type Run = (this: InferenceSession, ...args: unknown[]) => Promise<InferenceSession.ReturnType>
const library = (InferenceSession as unknown as { readonly prototype: { run: Run } }).prototype
const { run } = library
library.run = async function timed(...args) {
  const [wall, cpu] = [performance.now(), cpuMs()]
  const result = await run.apply(this, args)
  inside.wallMs += performance.now() - wall
  inside.cpuMs += cpuMs() - cpu
  return result
}

/** Processor time of all threads of this process. */
function cpuMs(): number {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}

type Step = { readonly networkMs: number; readonly ownMs: number }

const threads = Number(values.threads)
const cacheDir = path.resolve(values.cache)
await mkdir(cacheDir, { recursive: true })
const scratchDir = await mkdtemp(path.join(cacheDir, 'costs-'))
const measured = new Map<string, Step[]>(ways.map(({ name }) => [name, []]))
try {
  await using pipelines = new PipelineCache({
    device: 'cpu',
    backend: 'onnxruntime',
    precision: 'fp32',
    threads,
    cacheDir,
    cacheLimitBytes: 64e9,
    scratchDir,
  })
  // Once for the compiler of JavaScript and for the caches.
  await measure(pipelines, base)
  for (let round = 0; round < Number(values.rounds); round++)
    for (const { name, task } of ways) measured.get(name)!.push(...(await measure(pipelines, { ...base, ...task })))
} finally {
  await rm(scratchDir, { recursive: true, force: true })
}

/** The steps of one picture but its first, which may wait for a network to be loaded. */
async function measure(pipelines: PipelineCache, task: GenerateTask): Promise<Step[]> {
  const steps: Step[] = []
  const files = {
    checkpoint: path.resolve(values.model),
    refiner: task.refiner && path.resolve(values.refiner!),
    pictures,
    assets: {},
  }
  let last = 0
  let [since, before] = [performance.now(), { ...inside }]
  await runGenerate(task, files, {
    pipelines,
    onProgress(progress) {
      const now = performance.now()
      const ownMs = now - since - (inside.wallMs - before.wallMs)
      const networkMs = (inside.cpuMs - before.cpuMs) / threads
      if (progress.phase === 'denoise') {
        if (progress.step === last + 1 && last > 0) steps.push({ networkMs, ownMs })
        last = progress.step
      }
      ;[since, before] = [now, { ...inside }]
    },
    onImage: async () => {},
  })
  return steps
}

const costs = ways.map(({ name }) => {
  const steps = measured.get(name)!
  const ownMs = quiet(steps.map((step) => step.ownMs))
  return { name, evaluations: steps.length, ownMs, ms: ownMs + quiet(steps.map((step) => step.networkMs)) }
})
const ddim = costs.find(({ name }) => name === 'DDIM')!
const rows = costs.map(({ name, evaluations, ownMs, ms }) => [
  name,
  String(evaluations),
  ms.toFixed(1),
  `${(ms / ddim.ms).toFixed(2)} ×`,
  ownMs.toFixed(2),
  `${((100 * ownMs) / ms).toFixed(1)} %`,
])
process.stdout.write(
  tableOf(['sampler and mode', 'evaluations', 'ms each', 'beside DDIM', 'our own code, ms', 'our share'], rows),
)

function quiet(all: readonly number[]): number {
  return all.toSorted((a, b) => a - b)[Math.floor(all.length / 4)]
}
