// What the service adds to a picture: the time of a synchronous call that is not the engine's, beside a bare handler that
// echoes; how fast requests are accepted, begun and polled; and what thousands of malformed ones do to the memory.
//
//   npx node bench/api.ts [--model FILE|FOLDER] [--pictures 100] [--requests 500] [--malformed 10000]
//     [--only pglite|postgres]
//
// Fails when the service adds more than 10 ms (median) on PGlite, or a free engine waits longer than 20 ms for a new job.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { Agent, request as httpRequest } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { buffer } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Worker } from 'node:worker_threads'
import { freePort, startPostgres } from '../test/support/postgres-server.ts'
import { ServiceProcess } from './chaos/process.ts'
import { tableOf } from './table.ts'

const { values } = parseArgs({
  options: {
    model: { type: 'string', default: fileURLToPath(new URL('../models/pocket', import.meta.url)) },
    pictures: { type: 'string', default: '100' },
    requests: { type: 'string', default: '500' },
    malformed: { type: 'string', default: '10000' },
    only: { type: 'string' },
  },
})
const [pictures, requests, malformed] = [values.pictures, values.requests, values.malformed].map(Number)
const token = `sepia_${'b'.repeat(43)}`
const inFlight = 8
const addedLimitMs = 10
const takenLimitMs = 20

type Answer = { readonly status: number; readonly json: Record<string, unknown>; readonly ms: number }

const agent = new Agent({ keepAlive: true })

/** One request over a kept connection, and how long its whole answer took. */
async function call(
  port: number,
  method: string,
  url: string,
  body?: object,
  headers: Record<string, string> = {},
): Promise<Answer> {
  const beganMs = performance.now()
  const payload = body === undefined ? undefined : JSON.stringify(body)
  const { promise, resolve, reject } = Promise.withResolvers<{ status: number; bytes: Buffer }>()
  const outgoing = httpRequest(
    {
      agent,
      port,
      method,
      path: url,
      headers: {
        authorization: `Bearer ${token}`,
        ...(payload !== undefined && {
          'content-type': 'application/json',
          'content-length': Buffer.byteLength(payload),
        }),
        ...headers,
      },
    },
    (incoming) => {
      buffer(incoming).then((bytes) => resolve({ status: incoming.statusCode!, bytes }), reject)
    },
  )
  outgoing.on('error', reject)
  outgoing.end(payload)
  const { status, bytes } = await promise
  const ms = performance.now() - beganMs
  return { status, json: JSON.parse(bytes.toString('utf8')) as Record<string, unknown>, ms }
}

/** What a picture costs that is no computation: a handler that takes the same body and echoes it, in a thread of its own. */
async function echo(): Promise<readonly number[]> {
  const source = `
    const { parentPort } = require('node:worker_threads')
    const app = require('fastify')()
    app.post('/', async (request) => request.body)
    app.listen({ port: 0 }).then(() => parentPort.postMessage(app.server.address()))
  `
  const worker = new Worker(source, { eval: true })
  const { promise, resolve } = Promise.withResolvers<AddressInfo>()
  worker.once('message', resolve)
  const { port } = await promise
  const times: number[] = []
  for (let made = 0; made < requests; made++) times.push((await call(port, 'POST', '/', order(made))).ms)
  await worker.terminate()
  return times
}

const order = (seed: number, fields: object = {}): object => ({
  prompt: 'a red apple',
  steps: 4,
  seed,
  use_refiner: false,
  ...fields,
})

type Figures = {
  readonly added: readonly number[]
  readonly taken: readonly number[]
  readonly submit: readonly number[]
  readonly submitsPerSecond: number
  readonly poll: readonly number[]
  readonly memory: readonly [before: number, after: number]
}

async function measure(env: Readonly<Record<string, string>>): Promise<Figures> {
  const folder = mkdtempSync(path.join(tmpdir(), 'sepia-api-'))
  const port = await freePort()
  const argv = [
    'serve',
    '--port',
    `${port}`,
    '--data',
    path.join(folder, 'data'),
    '--model',
    values.model,
    '--threads',
    '1',
    '--log-level',
    'warn',
    '--max-queue',
    '100000',
  ]
  const server = new ServiceProcess(
    'server',
    argv,
    { SEPIA_TOKEN: token, SEPIA_CACHE: path.join(folder, 'cache'), ...env },
    'listens at',
  )
  try {
    server.spawn()
    await server.ready()
    return {
      ...(await makePictures(port)),
      ...(await submitAndPoll(port)),
      memory: await sendMalformed(port, server.pid!),
    }
  } finally {
    await server.kill()
    rmSync(folder, { recursive: true })
  }
}

/** Synchronous pictures one after the other: what is not the engine's, and how long each waited for the free engine. */
async function makePictures(port: number): Promise<Pick<Figures, 'added' | 'taken'>> {
  const added: number[] = []
  const taken: number[] = []
  const warmUp = 5
  for (let made = -warmUp; made < pictures; made++) {
    const { status, json, ms } = await call(port, 'POST', '/generate/sdxl', order(made + warmUp))
    if (status !== 200) throw new Error(`${status} ${JSON.stringify(json).slice(0, 500)}`)
    if (made >= 0) added.push(ms - (json['prediction_time_ms'] as number))
  }
  for (let offset = 0; offset < pictures; offset += 100) {
    const { json } = await call(port, 'GET', `/v1/requests?limit=${Math.min(100, pictures - offset)}&offset=${offset}`)
    for (const { created_at: created, started_at: started } of json['data'] as {
      created_at: string
      started_at: string
    }[])
      taken.push(Date.parse(started) - Date.parse(created))
  }
  return { added, taken }
}

/** Asynchronous requests, several at a time, while the engine is busy; then polls of one; then all are cancelled. */
async function submitAndPoll(port: number): Promise<Pick<Figures, 'submit' | 'submitsPerSecond' | 'poll'>> {
  const submit: number[] = []
  const ids: string[] = []
  const beganMs = performance.now()
  const submitter = async (): Promise<void> => {
    while (submit.length + 1 <= requests) {
      submit.push(0)
      const place = submit.length - 1
      const body = order(place, { steps: 200, num_images: 16 })
      const { status, json, ms } = await call(port, 'POST', '/generate/sdxl', body, { 'x-octoai-async': '1' })
      if (status !== 201) throw new Error(`${status} ${JSON.stringify(json)}`)
      submit[place] = ms
      ids.push(json['response_id'] as string)
    }
  }
  await Promise.all(Array.from({ length: inFlight }, submitter))
  const submitsPerSecond = (1000 * requests) / (performance.now() - beganMs)
  const poll: number[] = []
  for (const id of ids) poll.push((await call(port, 'GET', `/v1/requests/${id}`)).ms)
  // The one that runs last, so that no other takes its place.
  for (const id of ids.toReversed()) await call(port, 'DELETE', `/v1/requests/${id}`)
  return { submit, submitsPerSecond, poll }
}

/** Requests that are wrong in several ways; the memory after a fifth of them and after all, in megabytes. */
async function sendMalformed(port: number, pid: number): Promise<Figures['memory']> {
  const wrong = [
    { steps: 0 },
    { sampler: 'x' },
    { init_image: 'A'.repeat(100_000) },
    { seed: ['x'] },
    { nothing: { deep: [1] } },
    { prompt: 5 },
  ]
  const residentMb = (): number =>
    Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) / 1024
  let before = 0
  for (let sent = 0; sent < malformed; sent++) {
    if (sent === Math.round(malformed / 5)) before = residentMb()
    const { status } = await call(port, 'POST', '/generate/sdxl', order(1, wrong[sent % wrong.length]))
    if (status !== 422) throw new Error(`${status} for ${JSON.stringify(wrong[sent % wrong.length]).slice(0, 100)}`)
  }
  return [before, residentMb()]
}

function quantile(times: readonly number[], part: number): number {
  const sorted = [...times].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))]
}

const row = (what: string, times: readonly number[]): string[] => [
  what,
  ...[0.5, 0.95, 0.99].map((part) => quantile(times, part).toFixed(1)),
]

const head = ['milliseconds', 'p50', 'p95', 'p99']
const failures: string[] = []

process.stdout.write(`\n${tableOf(head, [row('bare fastify, echo', await echo())])}`)
for (const kind of ['pglite', 'postgres'] as const) {
  if (values.only !== undefined && values.only !== kind) continue
  await using postgres = kind === 'postgres' ? await startPostgres() : null
  const figures = await measure(postgres ? { DATABASE_URL: await postgres.createDatabase('api') } : {})
  const { added, taken, submit, submitsPerSecond, poll, memory } = figures
  process.stdout.write(
    `\n${kind}: ${pictures} pictures, ${submitsPerSecond.toFixed(0)} requests accepted a second (${inFlight} at a time)\n\n` +
      tableOf(head, [
        row('synchronous call without its engine time', added),
        row('from acceptance to a free engine', taken),
        row('asynchronous request until it is accepted', submit),
        row('poll', poll),
      ]) +
      `\n${malformed} malformed requests: server from ${memory[0].toFixed(0)} MiB to ${memory[1].toFixed(0)} MiB\n`,
  )
  if (kind === 'pglite' && quantile(added, 0.5) > addedLimitMs)
    failures.push(`the service adds more than ${addedLimitMs} ms`)
  if (quantile(taken, 0.5) > takenLimitMs) failures.push(`${kind}: a free engine waits longer than ${takenLimitMs} ms`)
}
if (failures.length > 0) throw new Error(failures.join('; '))
