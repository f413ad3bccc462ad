// A server that makes pictures of mixed sizes, samplers and modes for a long time: does its memory stay what it is?
//
//   npx node bench/soak.ts [--pictures 500] [--seed 1] [--model FOLDER] [--memory-limit 4GB]
//
// Prints the memory of server and engine over time, and fails when after the first two fifths, in which every size is seen,
// it moves by more than 5 %.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { samplerNames } from '../src/diffusion/samplers.ts'
import { freePort } from '../test/support/postgres-server.ts'
import { between, seeded, type Random } from './chaos/random.ts'
import { ServiceProcess } from './chaos/process.ts'
import { tableOf } from './table.ts'

const { values } = parseArgs({
  options: {
    pictures: { type: 'string', default: '500' },
    seed: { type: 'string', default: '1' },
    model: { type: 'string', default: fileURLToPath(new URL('../test/golden/wide-model/tiny-wide', import.meta.url)) },
    'memory-limit': { type: 'string' },
  },
})

const sizes = [
  [640, 1536],
  [768, 1344],
  [832, 1216],
  [896, 1152],
  [1024, 1024],
  [1152, 896],
  [1216, 832],
  [1344, 768],
  [1536, 640],
] as const
/** A PNG of one grey pixel, to start from. */
const pixel = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=='
const tolerance = 0.05
const columns = 10

/** Megabytes of one moment. */
type Sample = {
  readonly pictures: number
  readonly server: number
  readonly engine: number
  readonly enginePrivate: number
}

const total = Number(values.pictures)
const folder = mkdtempSync(path.join(tmpdir(), 'sepia-soak-'))
const token = `sepia_${'s'.repeat(43)}`
const port = await freePort()
const limit = values['memory-limit'] === undefined ? [] : ['--memory-limit', values['memory-limit']]
const server = new ServiceProcess(
  'server',
  ['serve', '--data', path.join(folder, 'data'), '--model', values.model, '--port', `${port}`, ...limit],
  { SEPIA_CACHE: path.join(folder, 'cache'), SEPIA_TOKEN: token },
  'listens at',
)
try {
  server.spawn()
  await server.ready()
  const random = seeded(Number(values.seed))
  const startMs = performance.now()
  const samples: Sample[] = []
  for (let made = 0; made < total;) {
    made += await makePictures(random, made)
    samples.push(sample(made))
    process.stderr.write(`\r${made} of ${total}   `)
  }
  process.stderr.write('\n')
  report(samples, (performance.now() - startMs) / 1000)
  await server.stop()
} finally {
  await server.kill()
  rmSync(folder, { recursive: true, force: true })
}

/** One request; the sizes take turns, everything else is chance. Returns how many pictures it made. */
async function makePictures(random: Random, made: number): Promise<number> {
  const [width, height] = sizes[made % sizes.length]
  const images = random() < 0.1 ? 2 : 1
  const fromPicture = random() < 0.2
  const withMask = fromPicture && random() < 0.5
  const response = await fetch(`http://127.0.0.1:${port}/generate/sdxl`, {
    method: 'POST',
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    body: JSON.stringify({
      prompt: 'a lighthouse at dusk',
      width,
      height,
      steps: between(random, 2, 6),
      sampler: samplerNames[between(random, 0, samplerNames.length - 1)],
      num_images: images,
      image_encoding: random() < 0.5 ? 'png' : 'jpeg',
      use_refiner: false,
      ...(fromPicture && { init_image: pixel, strength: 0.9 }),
      ...(withMask && { mask_image: pixel }),
    }),
  })
  const text = await response.text()
  if (response.status !== 200) throw new Error(`${response.status} ${text.slice(0, 500)}\n${server.output}`)
  return images
}

function sample(pictures: number): Sample {
  const [enginePid] = server.enginePids()
  const engine = memoryOf(enginePid)
  return { pictures, server: memoryOf(server.pid!).resident, engine: engine.resident, enginePrivate: engine.private }
}

/** Megabytes of a process, by the kernel's count. */
function memoryOf(pid: number): { readonly resident: number; readonly private: number } {
  const text = readFileSync(`/proc/${pid}/status`, 'utf8')
  const megabytes = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(text)![1]) / 1024
  return { resident: megabytes('VmRSS'), private: megabytes('RssAnon') }
}

function report(samples: readonly Sample[], seconds: number): void {
  const rows = Array.from({ length: columns }, (_, column) => {
    const own = samples.slice(
      Math.floor((column * samples.length) / columns),
      Math.floor(((column + 1) * samples.length) / columns),
    )
    const mean = (key: keyof Sample): number => own.reduce((sum, one) => sum + one[key], 0) / own.length
    return {
      pictures: own[own.length - 1].pictures,
      server: mean('server'),
      engine: mean('engine'),
      enginePrivate: mean('enginePrivate'),
    }
  })
  const head = ['pictures', 'server MB', 'engine MB', 'engine private MB']
  const cells = rows.map((row) => Object.values(row).map((value) => value.toFixed(0)))
  process.stdout.write(`${tableOf(head, cells)}\n${total} pictures in ${seconds.toFixed(0)} s\n`)
  const warm = rows.slice((columns * 2) / 5)
  for (const key of ['server', 'engine', 'enginePrivate'] as const) {
    const drift = Math.max(...warm.map((row) => Math.abs(row[key] / warm[0][key] - 1)))
    const flat = drift <= tolerance
    process.stdout.write(
      `${key}: ${(100 * drift).toFixed(1)} % at most from the first of these${flat ? '' : ': NOT FLAT'}\n`,
    )
    if (!flat) process.exitCode = 1
  }
}
