// A second start to its first step: seconds until an engine process has what it needs, all files prepared and in the page
// cache, and processor seconds of it; nothing watches its memory meanwhile.
//
//   node bench/load.ts --model FILE|FOLDER [--size 1024] [--rounds 3] [--cache DIR] [--threads N]
//                      [--engines onnxruntime:fp32,openvino:bf16,openvino:int8]
//
// Each round starts a process, lets it begin a picture and ends it when the UNet is ready; round 0 is not told, since it
// may have files to prepare.
import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { openvinoFolders } from '#cli/backend-places.ts'
import { backendNames, precisions } from '#engine/backend.ts'
import { EngineProcess } from '#worker/engine-process.ts'
import type { Progress } from '#worker/protocol.ts'
import { resolveConfig } from '../src/config.ts'
import { pictureTask } from '../test/support/picture-task.ts'
import { tableOf } from './table.ts'

const { values } = parseArgs({
  options: {
    model: { type: 'string', default: path.join(import.meta.dirname, '../models/pocket') },
    size: { type: 'string', default: '1024' },
    rounds: { type: 'string', default: '3' },
    cache: { type: 'string', default: '.bench-cache' },
    threads: { type: 'string', default: String(availableParallelism()) },
    engines: { type: 'string', default: 'onnxruntime:fp32,openvino:bf16,openvino:int8' },
  },
})

/** Seconds from the start of the process until the UNet was ready, less the prompt's encoding, and their parts. */
type Start = {
  readonly beforeUNet: number
  readonly prompt: number
  readonly unet: number
  readonly own: number
  readonly system: number
}

const edge = Number(values.size)
const task = pictureTask({
  prompt: 'a red apple',
  width: edge,
  height: edge,
  numInferenceSteps: 1,
  guidanceScale: 1,
  sampler: 'DDIM',
  seeds: [1],
})
const rows: string[][] = []
for (const engine of values.engines.split(',')) {
  const starts: Start[] = []
  for (let round = 0; round <= Number(values.rounds); round++) {
    const start = await measure(engine)
    process.stderr.write(`${engine} ${JSON.stringify(start)}\n`)
    if (round > 0) starts.push(start)
  }
  const cells = (pick: (start: Start) => number): string => {
    const all = starts.map(pick).toSorted((a, b) => a - b)
    return `${all[0].toFixed(1)}–${all.at(-1)!.toFixed(1)}`
  }
  rows.push([
    engine,
    String(starts.length),
    cells((start) => start.beforeUNet),
    cells((start) => start.prompt),
    cells((start) => start.unet),
    cells((start) => start.beforeUNet + start.unet),
    cells((start) => start.own),
    cells((start) => start.system),
  ])
}
const head = ['engine', 'runs', 'until the UNet', 'prompt', 'UNet', 'to the first step', 'own code', 'system']
process.stdout.write(tableOf(head, rows))

async function measure(engineName: string): Promise<Start> {
  const [backend, precision] = engineName.split(':')
  const begin = performance.now()
  const seconds = (): number => (performance.now() - begin) / 1000
  await using engine = await EngineProcess.start({
    device: 'cpu',
    backend: oneOf(backend, backendNames),
    precision: oneOf(precision, precisions),
    openvinoFolders: openvinoFolders(resolveConfig(process.env)),
    threads: Number(values.threads),
    cacheDir: path.resolve(values.cache),
    cacheLimitBytes: 64e9,
  })
  const { pid } = engine
  const files = { checkpoint: path.resolve(values.model), refiner: null, pictures: {}, assets: {} }
  return await new Promise<Start>((resolve, reject) => {
    let last: Progress['phase'] | null = null
    let prompt = 0
    let since = 0
    let unetSince: number | null = null
    let done = false
    const onProgress = (progress: Progress): void => {
      if (done) return
      const now = seconds()
      if (last === 'encode') prompt += now - since
      if (progress.phase === 'load' && progress.component === 'unet') unetSince = now
      else if (unetSince !== null) {
        done = true
        resolve({ beforeUNet: unetSince - prompt, prompt, unet: now - unetSince, ...processorSeconds(pid!) })
      }
      last = progress.phase
      since = now
    }
    engine.generate(task, files, { onProgress }).then(
      () => reject(new Error('the picture was there before its UNet')),
      (error: unknown) => {
        if (!done) reject(error instanceof Error ? error : new Error(String(error)))
      },
    )
  })
}

/** What a process and its threads have used: user and system time are fields 14 and 15, in hundredths (Linux). */
function processorSeconds(pid: number): { readonly own: number; readonly system: number } {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /s, '')
    .split(' ')
  return { own: Number(fields[11]) / 100, system: Number(fields[12]) / 100 }
}

function oneOf<Value extends string>(value: string, allowed: readonly Value[]): Value {
  const found = allowed.find((one) => one === value)
  if (found === undefined) throw new Error(`"${value}" is none of ${allowed.join(', ')}`)
  return found
}
