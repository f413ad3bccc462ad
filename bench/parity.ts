// Every whole picture of `python tools/reference/parity.py --all FOLDER` against ours: mean and largest difference in
// steps of 1/255, a row a model, sampler and guidance scale; exit code 1 when a picture is off.
//
//   node bench/parity.ts FOLDER [--only TEXT] [--precision fp32|fp16] [--cache DIR]
import { readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import sharp from 'sharp'
import { EngineProcess } from '#worker/engine-process.ts'
import { modelOf, taskOf, type ParityCase } from '../test/support/parity-case.ts'
import { tableOf } from './table.ts'

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    only: { type: 'string', default: '' },
    precision: { type: 'string', default: 'fp32' },
    cache: { type: 'string', default: '.bench-cache' },
  },
})
const [folder] = positionals
if (!folder) throw new Error('FOLDER with the reference pictures is missing')
const precision = values.precision === 'fp16' ? 'fp16' : 'fp32'
const limits = precision === 'fp16' ? { mean: 2, max: 255 } : { mean: 0.2, max: 3 }

const cases = (JSON.parse(readFileSync(path.join(folder, 'cases.json'), 'utf8')) as ParityCase[]).filter(({ name }) =>
  name.includes(values.only),
)
const groups = new Map<string, { count: number; means: number[]; max: number }>()
const off: string[] = []
await using engine = await EngineProcess.start({
  device: 'cpu',
  backend: 'onnxruntime',
  precision,
  threads: availableParallelism(),
  cacheDir: path.resolve(values.cache),
  cacheLimitBytes: 64e9,
})
for (const [index, one] of cases.entries()) {
  const { mean, max } = await difference(one)
  const key = `${one.model}|${one.sampler}|${one.cfg}`
  const group = groups.get(key) ?? { count: 0, means: [], max: 0 }
  groups.set(key, { count: group.count + 1, means: [...group.means, mean], max: Math.max(group.max, max) })
  if (!(mean <= limits.mean && max <= limits.max)) off.push(`${one.name}: mean ${mean.toFixed(3)}, max ${max}`)
  process.stderr.write(`${index + 1}/${cases.length} ${one.name}: mean ${mean.toFixed(4)}, max ${max}\n`)
}

const rows: string[][] = []
for (const [key, { count, max, means }] of groups) {
  const average = means.reduce((sum, mean) => sum + mean, 0) / count
  rows.push(key.split('|').concat(String(count), average.toFixed(4), Math.max(...means).toFixed(4), String(max)))
}
process.stdout.write(tableOf(['model', 'sampler', 'cfg', 'pictures', 'mean', 'worst mean', 'max'], rows))
process.stdout.write(
  `${cases.length - off.length} of ${cases.length} pictures within mean ${limits.mean} and max ${limits.max}\n`,
)
for (const line of off) process.stdout.write(`off: ${line}\n`)
if (off.length > 0) process.exitCode = 1

async function difference(one: ParityCase): Promise<{ mean: number; max: number }> {
  const pictures: Uint8Array[] = []
  await engine.generate(
    taskOf(one),
    { checkpoint: modelOf(one), refiner: null, pictures: {}, assets: {} },
    { onImage: (index, _seed, bytes) => void (pictures[index] = bytes) },
  )
  const [ours, theirs] = await Promise.all(
    [pictures[0], await readFile(path.join(folder, `${one.name}.png`))].map((bytes) =>
      sharp(bytes).removeAlpha().raw().toBuffer(),
    ),
  )
  if (ours.length !== theirs.length) throw new Error(`${one.name}: the pictures have different sizes`)
  let sum = 0
  let max = 0
  for (let i = 0; i < ours.length; i++) {
    const step = Math.abs(ours[i] - theirs[i])
    sum += step
    max = Math.max(max, step)
  }
  return { mean: sum / ours.length, max }
}
