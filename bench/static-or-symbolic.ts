// Is a UNet graph with fixed sizes faster than one whose sizes are known at the run only? The second one is made from the
// first: every shape that the graph holds as a constant becomes an input, so that onnxruntime cannot plan with it.
//
//   node bench/static-or-symbolic.ts [--model FOLDER] [--size 1024] [--runs 20] [--threads N]
import { availableParallelism } from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import type { Feed, Session } from '#engine/backend.ts'
import { onnxruntimeBackend } from '#engine/backends/onnxruntime.ts'
import { unetGraph } from '#engine/models/unet.ts'
import { bindWeights } from '#engine/onnx/bind-weights.ts'
import type { Graph } from '#engine/onnx/graph-builder.ts'
import { vaeScaleFactor } from '#engine/models/vae-config.ts'
import { componentHash } from '#engine/weights/hash.ts'
import { openCheckpoint } from '#engine/weights/open-checkpoint.ts'
import { prepareWeights } from '#engine/weights/prepared-cache.ts'
import { TorchGenerator } from '#tensor/random.ts'
import { createScratch, removeScratch } from '#worker/scratch-folder.ts'
import { tableOf } from './table.ts'

const { values } = parseArgs({
  options: {
    model: { type: 'string', default: path.join(import.meta.dirname, '../models/pocket') },
    size: { type: 'string', default: '1024' },
    runs: { type: 'string', default: '20' },
    cache: { type: 'string', default: '.bench-cache' },
    threads: { type: 'string', default: String(availableParallelism()) },
  },
})

const cacheDir = path.resolve(values.cache)
const { unet, vae } = await openCheckpoint(path.resolve(values.model))
const scratchDir = await createScratch(cacheDir)
const hash = await componentHash(unet, { cacheDir, scratchDir })
const prepared = await prepareWeights(unet, hash, { dtype: 'F32', cacheDir, scratchDir, limitBytes: 64e9 })
const edge = Number(values.size) / vaeScaleFactor(vae!.config)
const fixed = unetGraph(unet.config, {
  precision: 'fp32',
  attention: 'fused',
  batch: 1,
  height: edge,
  width: edge,
  textLength: 77,
  loraTargets: new Set(),
  controlResiduals: false,
})
const { graph: symbolic, feeds: shapes } = withoutSizes(fixed)
const generator = new TorchGenerator(1)
const inputs = Object.fromEntries(fixed.inputs.map(({ name, shape }) => [name, generator.randn(shape.map(Number))]))
const backend = onnxruntimeBackend({ device: 'cpu', threads: Number(values.threads), externalDataRoot: '/' })

const rows: string[][] = []
const candidates = [
  { name: 'static', graph: fixed, feeds: inputs as Record<string, Feed> },
  { name: 'symbolic', graph: symbolic, feeds: { ...inputs, ...shapes } },
]
const sessions: { name: string; session: Session; feeds: Record<string, Feed>; loadMs: number; times: number[] }[] = []
for (const { name, graph, feeds } of candidates) {
  const start = performance.now()
  const session = await backend.create(bindWeights(graph, prepared.weights), {
    weightsInPlace: true,
    keepActivations: true,
    arithmetic: 'graph',
  })
  sessions.push({ name, session, feeds, loadMs: performance.now() - start, times: [] })
}
for (let run = 0; run < Number(values.runs); run++) {
  for (const { session, feeds, times } of sessions) {
    const start = performance.now()
    await session.run(feeds)
    times.push(performance.now() - start)
  }
}
for (const { name, loadMs, session, times } of sessions) {
  const sorted = times.toSorted((a, b) => a - b)
  rows.push([name, loadMs.toFixed(0), sorted[0].toFixed(1), sorted[Math.floor(sorted.length / 2)].toFixed(1)])
  await session.close()
}
await removeScratch(scratchDir)
process.stdout.write(tableOf(['sizes', 'load ms', 'smallest ms', 'median ms'], rows))

function withoutSizes(graph: Graph): { graph: Graph; feeds: Record<string, Feed> } {
  const feeds: Record<string, Feed> = {}
  const constants = graph.constants.filter(({ data, name, shape, type }) => {
    if (type !== 'int64' || !(data instanceof Uint8Array)) return true
    feeds[name] = { shape, data: new BigInt64Array(data.slice().buffer) }
    return false
  })
  const shapeInputs = Object.entries(feeds).map(([name, { shape }]) => ({ name, type: 'int64', shape }) as const)
  const open = graph.inputs.map((input) => ({ ...input, shape: input.shape.map((_, axis) => `${input.name}.${axis}`) }))
  const outputs = graph.outputs.map((output) => ({ ...output, shape: output.shape.map((_, axis) => `out.${axis}`) }))
  return { graph: { ...graph, constants, inputs: [...open, ...shapeInputs], outputs }, feeds }
}
