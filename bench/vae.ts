// Decoding latents of one size: whole, and in strips. Seconds, load, the most memory, and how far strips are from whole.
//
//   node bench/vae.ts --model FILE|FOLDER [--sizes 1024] [--ways whole,strips] [--cache DIR] [--threads N]
//
// Every row is a process of its own that decodes twice; the table gives the quicker one.
import { spawn } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { onnxruntimeBackend } from '#engine/backends/onnxruntime.ts'
import { vaeScaleFactor } from '#engine/models/vae-config.ts'
import { StripDecoder } from '#engine/networks/strip-decoder.ts'
import { VaeDecoder } from '#engine/networks/vae-decoder.ts'
import { externalDataRoot } from '#engine/onnx/bind-weights.ts'
import { componentHash } from '#engine/weights/hash.ts'
import { openCheckpoint } from '#engine/weights/open-checkpoint.ts'
import { prepareWeights } from '#engine/weights/prepared-cache.ts'
import { createScratch, removeScratch } from '#worker/scratch-folder.ts'
import { TorchGenerator } from '#tensor/random.ts'
import { watchMemory } from './memory/process-tree.ts'
import { tableOf } from './table.ts'

const { values } = parseArgs({
  options: {
    model: { type: 'string' },
    sizes: { type: 'string', default: '1024' },
    ways: { type: 'string', default: 'whole,strips' },
    cache: { type: 'string', default: '.bench-cache' },
    threads: { type: 'string', default: String(availableParallelism()) },
    once: { type: 'string' },
    out: { type: 'string' },
  },
})

type Measurement = { readonly loadSeconds: number; readonly seconds: number }

if (!values.model) throw new Error('--model FILE|FOLDER is missing')
if (values.once) process.stdout.write(JSON.stringify(await measure(values.model, values.once, Number(values.sizes))))
else await table()

async function table(): Promise<void> {
  const rows: string[][] = []
  const folder = await mkdtemp(path.join(tmpdir(), 'sepia-vae-'))
  try {
    for (const size of values.sizes.split(',')) {
      let first: Float32Array | null = null
      for (const way of values.ways.split(',')) {
        const out = path.join(folder, `${size}-${way}`)
        const own = ['--sizes', size, '--once', way, '--out', out]
        const child = spawn(process.execPath, [...process.argv.slice(1), ...own])
        child.stderr.pipe(process.stderr)
        const stop = watchMemory(child.pid!)
        let text = ''
        for await (const piece of child.stdout) text += String(piece)
        const { totalMb, privateMb } = stop()
        const { loadSeconds, seconds } = JSON.parse(text) as Measurement
        const picture = new Float32Array(readFileSync(out).buffer.slice(0))
        first ??= picture
        const cells = [seconds.toFixed(2), loadSeconds.toFixed(2), totalMb.toFixed(0), privateMb.toFixed(0)]
        rows.push([`${size}²`, way, ...cells, farthest(first, picture).toExponential(1)])
      }
    }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
  const head = ['size', 'way', 's a picture', 'load s', 'memory MB', 'private MB', 'farthest from the first, 0 to 1']
  process.stdout.write(tableOf(head, rows))
}

async function measure(model: string, way: string, size: number): Promise<Measurement> {
  const { vae } = await openCheckpoint(path.resolve(model))
  if (!vae) throw new Error(`${model} has no VAE`)
  const cacheDir = path.resolve(values.cache)
  const scratchDir = await createScratch(cacheDir)
  try {
    const folders = { cacheDir, scratchDir, onProgress: () => {} }
    const hash = await componentHash(vae, folders)
    using prepared = await prepareWeights(vae, hash, { ...folders, dtype: 'F32', limitBytes: 64e9 })
    const threads = Number(values.threads)
    const backend = onnxruntimeBackend({ device: 'cpu', threads, externalDataRoot: externalDataRoot(cacheDir) })
    const source = {
      backend,
      config: vae.config,
      weights: prepared.weights,
      precision: 'fp32',
      arithmetic: 'graph',
    } as const
    const edge = size / vaeScaleFactor(vae.config)
    const latentSize = { height: edge, width: edge }
    const start = performance.now()
    await using decoder = await (way === 'strips' ? StripDecoder : VaeDecoder).load(source, latentSize)
    const loadSeconds = (performance.now() - start) / 1000
    const latents = new TorchGenerator(1).randn([1, vae.config.latentChannels, edge, edge])
    let seconds = Infinity
    for (let run = 0; run < 2; run++) {
      const begin = performance.now()
      const picture = await decoder.decode(latents)
      seconds = Math.min(seconds, (performance.now() - begin) / 1000)
      if (run === 0) writeFileSync(values.out!, picture.data)
    }
    return { loadSeconds, seconds }
  } finally {
    await removeScratch(scratchDir)
  }
}

/** The largest difference between two pictures of −1..1, as a part of the whole range. */
function farthest(a: Float32Array, b: Float32Array): number {
  return a.reduce((most, value, index) => Math.max(most, Math.abs(value - b[index]) / 2), 0)
}
