// Decoding latents of one size: whole, and in strips. Seconds, load, the most memory, and how far strips are from whole.
//
//   node bench/vae.ts --model FILE|FOLDER [--sizes 1024] [--ways whole,strips] [--runs 2] [--cache DIR] [--threads N]
//                     [--backend onnxruntime|openvino] [--precision fp32|bf16]
//
// `auto` is the way that Sepia takes. Every row is a process of its own; the table gives its quickest run.
import { spawn } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { backendNames, precisions } from '#engine/backend.ts'
import { openvinoFolders } from '#cli/backend-places.ts'
import { vaeDecoderGraph } from '#engine/models/vae.ts'
import { vaeScaleFactor, type VaeConfig } from '#engine/models/vae-config.ts'
import { createSession, type NetworkSource } from '#engine/networks/network-source.ts'
import { StripDecoder } from '#engine/networks/strip-decoder.ts'
import { VaeDecoder } from '#engine/networks/vae-decoder.ts'
import { componentHash } from '#engine/weights/hash.ts'
import { openCheckpoint } from '#engine/weights/open-checkpoint.ts'
import { prepareWeights } from '#engine/weights/prepared-cache.ts'
import { networkArithmetic } from '#worker/engine-choice.ts'
import { openEngine } from '#worker/open-backend.ts'
import { createScratch, removeScratch } from '#worker/scratch-folder.ts'
import { TorchGenerator } from '#tensor/random.ts'
import type { Tensor } from '#tensor/tensor.ts'
import { resolveConfig } from '../src/config.ts'
import { watchMemory } from './memory/process-tree.ts'
import { tableOf } from './table.ts'
import { timedRuns } from './timed-runs.ts'

const { values } = parseArgs({
  options: {
    model: { type: 'string' },
    sizes: { type: 'string', default: '1024' },
    ways: { type: 'string', default: 'whole,strips' },
    cache: { type: 'string', default: '.bench-cache' },
    threads: { type: 'string', default: String(availableParallelism()) },
    backend: { type: 'string', default: 'onnxruntime' },
    precision: { type: 'string', default: 'fp32' },
    runs: { type: 'string', default: '2' },
    once: { type: 'string' },
    turns: { type: 'boolean', default: false },
    out: { type: 'string' },
  },
})

type Measurement = { readonly loadSeconds: number; readonly seconds: readonly number[] }

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
        const cells = [
          Math.min(...seconds).toFixed(2),
          loadSeconds.toFixed(2),
          totalMb.toFixed(0),
          privateMb.toFixed(0),
        ]
        rows.push([`${size}²`, way, ...cells, farthest(first, picture).toExponential(1)])
        process.stderr.write(`${rows.at(-1)!.join('  ')}\n`)
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
    const { backends, choice } = await openEngine({
      ...folders,
      device: 'cpu',
      backend: oneOf(values.backend, backendNames),
      precision: oneOf(values.precision, precisions),
      openvinoFolders: openvinoFolders(resolveConfig(process.env)),
      threads: Number(values.threads),
      cacheLimitBytes: 64e9,
    })
    const { config } = vae
    const { backend, ...how } = networkArithmetic('vae', choice, 'cpu')
    const source = { backend: backends[backend]!, config, weights: prepared.weights, ...how }
    const edge = size / vaeScaleFactor(vae.config)
    const latentSize = { height: edge, width: edge }
    const start = performance.now()
    await using decoder = await openDecoder(way, source, latentSize)
    const loadSeconds = (performance.now() - start) / 1000
    const latents = new TorchGenerator(1).randn([1, vae.config.latentChannels, edge, edge])
    let picture: Tensor | null = null
    const seconds = await timedRuns(Number(values.runs), values.turns, async () => {
      picture = await decoder.decode(latents)
    })
    if (values.out && picture !== null) writeFileSync(values.out, (picture as Tensor).data)
    return { loadSeconds, seconds }
  } finally {
    await removeScratch(scratchDir)
  }
}

type Decoder = AsyncDisposable & { decode(latents: Tensor): Promise<Tensor> }

async function openDecoder(
  way: string,
  source: NetworkSource<VaeConfig>,
  size: { readonly height: number; readonly width: number },
): Promise<Decoder> {
  if (way === 'auto') return await VaeDecoder.load(source, size)
  if (way === 'strips') return await StripDecoder.load(source, size)
  const graph = vaeDecoderGraph(source.config, { precision: 'fp32', attention: 'fused', batch: 1, ...size })
  const session = await createSession(source, [graph], { weightsInPlace: false, keepActivations: false })
  return {
    decode: async (latents) => (await session.run({ latents }))['image'],
    [Symbol.asyncDispose]: () => session.close(),
  }
}

function oneOf<Value extends string>(value: string, allowed: readonly Value[]): Value {
  const found = allowed.find((one) => one === value)
  if (found === undefined) throw new Error(`"${value}" is none of ${allowed.join(', ')}`)
  return found
}

/** The largest difference between two pictures of −1..1, as a part of the whole range. */
function farthest(a: Float32Array, b: Float32Array): number {
  return a.reduce((most, value, index) => Math.max(most, Math.abs(value - b[index]) / 2), 0)
}
