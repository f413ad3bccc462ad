// Other programs beside us: torch with diffusers, and OpenVINO's own pipeline (its converter's UNet out of torch).
//
//   node bench/peers/peers.ts setup [--python FILE]               a virtual environment with the peers, their networks
//   node bench/peers/peers.ts run --model FILE|FOLDER [--parts unet,vae] [--sizes 1024,512] [--rounds 2]
//                                 [--runs 4] [--only NAME,…] [--alone] [--limit-minutes 0]
//   node bench/peers/peers.ts table
//                     all: [--folder .bench-peers] [--cache DIR] [--threads N] [--tiny]
//
// Each measurement is a process of its own that loads and makes --runs evaluations, of which the first counts for nobody:
// some of our weights are packed during it. The speed of a machine drifts, so programs of one precision are loaded side by
// side and take turns evaluation by evaluation; --alone loads one at a time, where the memory is too small for all, and they take
// turns process by process. Measurements are kept in FOLDER/results.jsonl, so that the rounds may be spread over several calls:
// --limit-minutes begins none after so long. --tiny measures small networks, to try the command itself.
import { execFileSync } from 'node:child_process'
import { appendFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { tableOf } from '../table.ts'
import { Contestant, type Measurement } from './contestant.ts'

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    model: { type: 'string' },
    parts: { type: 'string', default: 'unet,vae' },
    sizes: { type: 'string', default: '1024,512' },
    rounds: { type: 'string', default: '2' },
    runs: { type: 'string', default: '4' },
    only: { type: 'string' },
    alone: { type: 'boolean', default: false },
    'limit-minutes': { type: 'string', default: '0' },
    folder: { type: 'string', default: '.bench-peers' },
    python: { type: 'string', default: 'python3' },
    cache: { type: 'string', default: '.bench-cache' },
    threads: { type: 'string', default: String(availableParallelism()) },
    tiny: { type: 'boolean', default: false },
  },
})

type Part = 'unet' | 'vae'
type Program = { readonly name: string; readonly by: 'sepia' | 'torch' | 'openvino'; readonly backend?: string }
type Result = Measurement & {
  readonly program: string
  readonly precision: string
  readonly part: string
  readonly size: string
}
type Contest = { readonly program: Program; readonly precision: string }

const ours: Program = { name: 'sepia (OpenVINO)', by: 'sepia', backend: 'openvino' }
const oursOnnxruntime: Program = { name: 'sepia (onnxruntime)', by: 'sepia', backend: 'onnxruntime' }
const openvino: Program = { name: 'OpenVINO', by: 'openvino' }
const torch: Program = { name: 'torch', by: 'torch' }
const contests: readonly Contest[] = [
  { program: ours, precision: 'bf16' },
  { program: openvino, precision: 'bf16' },
  { program: torch, precision: 'bf16' },
  { program: ours, precision: 'int8' },
  { program: openvino, precision: 'int8' },
  { program: ours, precision: 'fp32' },
  { program: openvino, precision: 'fp32' },
  { program: oursOnnxruntime, precision: 'fp32' },
  { program: torch, precision: 'fp32' },
]

const folder = path.resolve(values.folder)
const environment = path.join(folder, 'venv')
const networks = path.join(folder, values.tiny ? 'networks-tiny' : 'networks')
const results = path.join(folder, values.tiny ? 'results-tiny.jsonl' : 'results.jsonl')
const script = path.join(import.meta.dirname, 'peer.py')
const tiny = values.tiny ? ['--tiny'] : []
const shared = ['--threads', values.threads]
if (!(Number(values.runs) >= 2)) throw new Error(`--runs must be at least 2, got ${values.runs}`)

const command = positionals[0]
if (command === 'setup') setup()
else if (command === 'run') await run()
else if (command === 'table') process.stdout.write(table())
else throw new Error('setup, run or table?')

/** What is there already is kept. */
function setup(): void {
  mkdirSync(folder, { recursive: true })
  if (!existsSync(environment)) {
    call(values.python, ['-m', 'venv', environment])
    call(python(), ['-m', 'pip', 'install', '-q', '-r', path.join(import.meta.dirname, 'requirements.txt')])
  }
  for (const part of ['unet', 'vae']) {
    if (!existsSync(path.join(networks, `${part}.xml`))) call(python(), [script, 'convert', part, networks, ...tiny])
    if (part === 'unet' && !existsSync(path.join(networks, `${part}-int8.xml`)))
      call(python(), [script, 'quantize', part, networks, ...tiny])
  }
}

async function run(): Promise<void> {
  if (!values.model) throw new Error('--model FILE|FOLDER is missing')
  const until = Number(values['limit-minutes']) * 60_000
  const start = performance.now()
  const done = read()
  for (let round = 1; round <= Number(values.rounds); round++)
    for (const part of values.parts.split(',') as Part[])
      for (const size of values.sizes.split(',')) {
        const waiting = contests
          .filter((contest) => takesPart(contest, part))
          .filter((contest) => done.filter((one) => isOf(one, contest, part, size)).length < round)
        const groups = values.alone
          ? waiting.map((contest) => [contest])
          : Map.groupBy(waiting, ({ precision }) => precision).values()
        for (const group of groups) {
          if (until > 0 && performance.now() - start > until) return
          for (const result of await measure(group, part, size)) {
            done.push(result)
            appendFileSync(results, `${JSON.stringify(result)}\n`)
            process.stderr.write(`${JSON.stringify(result)}\n`)
          }
        }
      }
}

function takesPart({ program, precision }: Contest, part: Part): boolean {
  if (values.only && !values.only.split(',').includes(`${program.name} ${precision}`)) return false
  // Nobody rounds a VAE to integers: it would show.
  if (precision === 'int8') return part === 'unet' && (program !== openvino || hasInt8())
  return true
}

function hasInt8(): boolean {
  return existsSync(path.join(networks, 'unet-int8.xml'))
}

/** Load all, one after the other, and let them take turns. */
async function measure(group: readonly Contest[], part: Part, size: string): Promise<Result[]> {
  const contestants: Contestant[] = []
  try {
    for (const contest of group) contestants.push(await load(contest, part, size))
    for (let run = 1; run < Number(values.runs); run++)
      for (const contestant of contestants) await contestant.evaluate()
    const found: Result[] = []
    for (const [index, { precision, program }] of group.entries())
      found.push({ program: program.name, precision, part, size, ...(await contestants[index].end()) })
    return found
  } catch (error) {
    for (const contestant of contestants) contestant.kill()
    throw error
  }
}

async function load({ program, precision }: Contest, part: Part, size: string): Promise<Contestant> {
  const [file, args] =
    program.by === 'sepia'
      ? [process.execPath, ownArguments(program, precision, part, size)]
      : [python(), [script, 'run', program.by, precision, part, size, networks, ...shared, ...tiny]]
  return await Contestant.load(`${program.name} ${precision}, ${part} ${size}²`, file, args)
}

function ownArguments({ backend }: Program, precision: string, part: Part, size: string): string[] {
  const common = ['--model', values.model!, '--cache', values.cache, ...shared]
  const engine = ['--backend', backend!, '--precision', precision]
  return part === 'unet'
    ? [path.join(import.meta.dirname, '../unet.ts'), ...common, ...engine, '--once', String(Number(size) / 8)]
    : [path.join(import.meta.dirname, '../vae.ts'), ...common, ...engine, '--sizes', size, '--once', 'auto']
}

/** Seconds a run, load and memory of all, and ours by theirs: the smallest by the smallest, and the medians. */
function table(): string {
  const all = read()
  const rows: string[][] = []
  for (const part of ['unet', 'vae'] as const)
    for (const size of [...new Set(all.map((one) => one.size))].sort((a, b) => Number(b) - Number(a)))
      for (const contest of contests) {
        const mine = all.filter((one) => isOf(one, contest, part, size))
        if (mine.length === 0) continue
        const seconds = secondsOf(mine)
        rows.push([
          `${part} ${size}²`,
          `${contest.program.name} ${contest.precision}`,
          Math.min(...seconds).toFixed(2),
          median(seconds).toFixed(2),
          Math.min(...mine.map((one) => one.loadSeconds)).toFixed(1),
          Math.max(...mine.map((one) => one.totalMb)).toFixed(0),
          ...ratios(contest, part, size, all),
        ])
      }
  return tableOf(['what', 'program', 's, min', 's, median', 'load s', 'memory MB', 'ours ÷ it, min', 'median'], rows)
}

/** Ours at the same precision by a peer's, on the same library; torch is compared with what we are fastest in without loss. */
function ratios({ program, precision }: Contest, part: Part, size: string, all: readonly Result[]): [string, string] {
  if (program.by === 'sepia') return ['', '']
  const own = secondsOf(all.filter((one) => isOf(one, { program: ours, precision }, part, size)))
  const theirs = secondsOf(all.filter((one) => isOf(one, { program, precision }, part, size)))
  if (own.length === 0) return ['', '']
  return [(Math.min(...own) / Math.min(...theirs)).toFixed(2), (median(own) / median(theirs)).toFixed(2)]
}

/** All evaluations but each process's first. */
function secondsOf(some: readonly Result[]): number[] {
  return some.flatMap(({ seconds }) => seconds.slice(1))
}

function isOf(one: Result, { program, precision }: Contest, part: string, size: string): boolean {
  return one.program === program.name && one.precision === precision && one.part === part && one.size === size
}

function median(numbers: readonly number[]): number {
  const sorted = numbers.toSorted((a, b) => a - b)
  return (sorted[Math.floor((sorted.length - 1) / 2)] + sorted[Math.ceil((sorted.length - 1) / 2)]) / 2
}

function read(): Result[] {
  if (!existsSync(results)) return []
  const lines = readFileSync(results, 'utf8').trim().split('\n')
  return lines.filter((line) => line !== '').map((line) => JSON.parse(line) as Result)
}

function python(): string {
  return path.join(environment, 'bin', 'python')
}

function call(file: string, args: readonly string[]): void {
  execFileSync(file, args, { stdio: 'inherit' })
}
