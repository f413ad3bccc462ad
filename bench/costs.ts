// What a step costs with each sampler, beside DDIM's, and how much of it is our own code: everything of a step but the
// time inside onnxruntime. The engine runs in this process, so that its calls can be timed.
//
//   node bench/costs.ts [--model FILE|FOLDER] [--steps 20] [--size 1024] [--cfg 7] [--rounds 3] [--only TEXT]
//                       [--cache DIR] [--threads N]
//
// --steps counts evaluations of the network; samplers with two a step take half as many. Rounds alternate between the
// samplers; the table shows medians over all steps but each picture's first.
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

const { values } = parseArgs({
  options: {
    model: { type: 'string', default: path.join(import.meta.dirname, '../models/pocket') },
    steps: { type: 'string', default: '20' },
    size: { type: 'string', default: '1024' },
    cfg: { type: 'string', default: '7' },
    rounds: { type: 'string', default: '3' },
    only: { type: 'string', default: '' },
    cache: { type: 'string', default: '.bench-cache' },
    threads: { type: 'string', default: String(availableParallelism()) },
  },
})

/** One row: a way to make a picture. */
type Way = { readonly name: string; readonly task: Partial<GenerateTask> }

const evaluations = Number(values.steps)
const ways: readonly Way[] = samplerNames
  .filter((sampler) => sampler.includes(values.only) || sampler === 'DDIM')
  .map((sampler) => ({
    name: sampler,
    task: { sampler, numInferenceSteps: Math.ceil(evaluations / samplers[sampler].order) },
  }))

const base: GenerateTask = {
  prompt: 'a red apple on a light blue background',
  prompt2: null,
  negativePrompt: null,
  negativePrompt2: null,
  width: Number(values.size),
  height: Number(values.size),
  numInferenceSteps: evaluations,
  guidanceScale: Number(values.cfg),
  sampler: 'DDIM',
  seeds: [1],
  clipSkip: null,
  start: { mode: 'textToImage' },
  refiner: null,
  previews: false,
  imageEncoding: 'jpeg',
}

// Time inside the library: its method is wrapped for the whole of this process. Its types hide that it is a class.
let insideMs = 0
type Run = (this: InferenceSession, ...args: unknown[]) => Promise<InferenceSession.ReturnType>
const library = (InferenceSession as unknown as { readonly prototype: { run: Run } }).prototype
const { run } = library
library.run = async function timed(...args) {
  const start = performance.now()
  const result = await run.apply(this, args)
  insideMs += performance.now() - start
  return result
}

type Step = { readonly ms: number; readonly ownMs: number }

const cacheDir = path.resolve(values.cache)
await mkdir(cacheDir, { recursive: true })
const scratchDir = await mkdtemp(path.join(cacheDir, 'costs-'))
const measured = new Map<string, Step[]>(ways.map(({ name }) => [name, []]))
try {
  await using pipelines = new PipelineCache({
    device: 'cpu',
    precision: 'fp32',
    threads: Number(values.threads),
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
  let [since, insideSince] = [performance.now(), insideMs]
  await runGenerate(
    task,
    { checkpoint: path.resolve(values.model), refiner: null, pictures: {} },
    {
      pipelines,
      onProgress(progress) {
        const now = performance.now()
        const ms = now - since
        if (progress.phase === 'denoise' && progress.step > 1) steps.push({ ms, ownMs: ms - (insideMs - insideSince) })
        ;[since, insideSince] = [now, insideMs]
      },
      onImage: async () => {},
    },
  )
  return steps
}

const ddimMs = median(measured.get('DDIM')!.map(({ ms }) => ms))
const rows = ways.map(({ name }) => {
  const steps = measured.get(name)!
  const ms = median(steps.map((step) => step.ms))
  const ownMs = median(steps.map((step) => step.ownMs))
  return [
    name,
    String(steps.length),
    ms.toFixed(1),
    `${(ms / ddimMs).toFixed(2)} ×`,
    ownMs.toFixed(2),
    `${((100 * ownMs) / ms).toFixed(1)} %`,
  ]
})
process.stdout.write(
  tableOf(['sampler', 'evaluations', 'ms each', 'beside DDIM', 'our own code, ms', 'our share'], rows),
)

function median(all: readonly number[]): number {
  return all.toSorted((a, b) => a - b)[Math.floor(all.length / 2)]
}
