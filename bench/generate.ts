// Where the time of one picture goes, in a fresh engine process (first picture) and in a warm one (second picture).
//
//   node bench/generate.ts [--model FILE|FOLDER] [--steps 10] [--size 1024] [--cfg 7] [--rounds 3] [--cache DIR] [--threads N]
//                          [--backend onnxruntime|openvino] [--precision fp32|bf16|int8]
//
// Without --model: the model that ships. Each round starts a new process; the table shows the median round.
import { availableParallelism } from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { openvinoFolders } from '#cli/backend-places.ts'
import { backendNames, precisions } from '#engine/backend.ts'
import { EngineProcess } from '#worker/engine-process.ts'
import type { Timings } from '#worker/protocol.ts'
import { resolveConfig } from '../src/config.ts'
import { tableOf } from './table.ts'
import { pictureTask } from '../test/support/picture-task.ts'

const { values } = parseArgs({
  options: {
    model: { type: 'string', default: path.join(import.meta.dirname, '../models/pocket') },
    steps: { type: 'string', default: '10' },
    size: { type: 'string', default: '1024' },
    cfg: { type: 'string', default: '7' },
    rounds: { type: 'string', default: '3' },
    cache: { type: 'string', default: '.bench-cache' },
    threads: { type: 'string', default: String(availableParallelism()) },
    backend: { type: 'string', default: 'onnxruntime' },
    precision: { type: 'string', default: 'fp32' },
  },
})

const task = pictureTask({
  prompt: 'a red apple on a light blue background',
  width: Number(values.size),
  height: Number(values.size),
  numInferenceSteps: Number(values.steps),
  guidanceScale: Number(values.cfg),
  sampler: 'DDIM',
  seeds: [1],
})

const phases: Record<string, (timings: Timings) => number> = {
  'load (open, hash, prepare, compile)': ({ loadMs }) => loadMs,
  'encode the prompt': ({ encodePromptMs }) => encodePromptMs,
  'first step': ({ stepMs }) => stepMs[0],
  'further steps, each': ({ stepMs }) => median(stepMs.length > 1 ? stepMs.slice(1) : stepMs),
  'all steps': ({ stepMs }) => stepMs.reduce((sum, ms) => sum + ms, 0),
  'decode the latents': ({ decodeMs }) => decodeMs,
  'encode the PNG': ({ encodeImageMs }) => encodeImageMs,
  total: ({ totalMs }) => totalMs,
}

const fresh: Timings[] = []
const warm: Timings[] = []
const starts: number[] = []
for (let round = 0; round < Number(values.rounds); round++) {
  const start = performance.now()
  await using engine = await EngineProcess.start({
    device: 'cpu',
    backend: oneOf(values.backend, backendNames),
    precision: oneOf(values.precision, precisions),
    openvinoFolders: openvinoFolders(resolveConfig(process.env)),
    threads: Number(values.threads),
    cacheDir: path.resolve(values.cache),
    cacheLimitBytes: 64e9,
  })
  starts.push(performance.now() - start)
  fresh.push(
    (
      await engine.generate(
        task,
        { checkpoint: path.resolve(values.model), refiner: null, pictures: {}, assets: {} },
        {},
      )
    ).timings,
  )
  warm.push(
    (
      await engine.generate(
        task,
        { checkpoint: path.resolve(values.model), refiner: null, pictures: {}, assets: {} },
        {},
      )
    ).timings,
  )
}

const rows = Object.entries(phases).map(([name, pick]) => [
  name,
  milliseconds(fresh.map(pick)),
  milliseconds(warm.map(pick)),
])
process.stdout.write(
  tableOf(['ms', 'first picture', 'second picture'], [['start the process', milliseconds(starts), ''], ...rows]),
)

function oneOf<Value extends string>(value: string, allowed: readonly Value[]): Value {
  const found = allowed.find((one) => one === value)
  if (found === undefined) throw new Error(`"${value}" is none of ${allowed.join(', ')}`)
  return found
}

function milliseconds(all: readonly number[]): string {
  return median(all).toFixed(0)
}

function median(all: readonly number[]): number {
  return all.toSorted((a, b) => a - b)[Math.floor(all.length / 2)]
}
