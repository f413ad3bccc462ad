// The most memory of `sepia generate` for one picture: the command, its engine process and everything below, with what they
// have mapped (proportional set size); and the time that its phases take.
//
//   node bench/memory.ts --model FILE|FOLDER [--size 1024] [--steps 1] [--cfg 1] [--cache DIR] [--threads N]
//                        [--engines onnxruntime:fp32,openvino:bf16,openvino:int8]
//
// The prepared files should be there: run it twice and take the second table.
import { spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { watchMemory } from './memory/process-tree.ts'
import { tableOf } from './table.ts'

const { values } = parseArgs({
  options: {
    model: { type: 'string', default: path.join(import.meta.dirname, '../models/pocket') },
    size: { type: 'string', default: '1024' },
    steps: { type: 'string', default: '1' },
    cfg: { type: 'string', default: '1' },
    engines: { type: 'string', default: 'onnxruntime:fp32,openvino:bf16,openvino:int8' },
    cache: { type: 'string', default: '.bench-cache' },
    threads: { type: 'string', default: String(availableParallelism()) },
  },
})

/** What `sepia generate --json` tells of its time, in milliseconds. */
type Answer = {
  readonly timings: {
    readonly loadMs: number
    readonly encodePromptMs: number
    readonly stepMs: readonly number[]
    readonly decodeMs: number
  }
}

const folder = await mkdtemp(path.join(tmpdir(), 'sepia-memory-'))
const rows: string[][] = []
try {
  for (const engine of values.engines.split(',')) {
    const [backend, precision] = engine.split(':')
    const options = {
      '--model': path.resolve(values.model),
      '--width': values.size,
      '--height': values.size,
      '--steps': values.steps,
      '--cfg': values.cfg,
      '--cache': path.resolve(values.cache),
      '--threads': values.threads,
      '--backend': backend,
      '--precision': precision,
      '--output': path.join(folder, `${backend}-${precision}.png`),
    }
    const command = path.join(import.meta.dirname, '../src/main.ts')
    const args = [command, 'generate', 'a red apple', '--json', ...Object.entries(options).flat()]
    const start = performance.now()
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
    const stop = watchMemory(child.pid!, 100)
    let text = ''
    for await (const piece of child.stdout) text += String(piece)
    const { privateMb, totalMb } = stop()
    const seconds = (performance.now() - start) / 1000
    const { timings } = JSON.parse(text) as Answer
    const { decodeMs, encodePromptMs, loadMs, stepMs } = timings
    const phases = [loadMs, encodePromptMs, Math.min(...stepMs), decodeMs].map((ms) => (ms / 1000).toFixed(1))
    rows.push([engine, totalMb.toFixed(0), privateMb.toFixed(0), ...phases, seconds.toFixed(1)])
    process.stderr.write(`${rows.at(-1)!.join('  ')}\n`)
  }
} finally {
  await rm(folder, { recursive: true, force: true })
}
const head = ['engine', 'memory MB', 'private MB', 'load s', 'prompt s', 'step s', 'decode s', 'all s']
process.stdout.write(tableOf(head, rows))
