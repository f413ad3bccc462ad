// Several machines in small: two API processes and three workers of one PostgreSQL server and one bucket.
import { createHash } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { count, eq, sql } from 'drizzle-orm'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { ServiceProcess } from '../../bench/chaos/process.ts'
import { createAccount, type Account } from '../../src/service/accounts/account.ts'
import { createToken } from '../../src/service/accounts/token.ts'
import { balanceOf, credit } from '../../src/service/billing/ledger.ts'
import { openDatabase, type Database } from '../../src/service/db/database.ts'
import { jobs, ledgerEntries } from '../../src/service/db/schema.ts'
import { openS3BlobStore, type S3Place } from '../../src/service/files/s3-blob-store.ts'
import { freePort, startPostgres } from '../support/postgres-server.ts'
import { startS3 } from '../support/s3-server.ts'

const model = fileURLToPath(new URL('../golden/wide-model/tiny-wide', import.meta.url))
/** SEPIA_TEST_JOBS=200 is the full number; a picture of these sizes takes a second of a core. */
const jobCount = Number(process.env['SEPIA_TEST_JOBS'] ?? 60)
const seedCount = jobCount / 2
const clientCount = 24
/** $0.004 × 2/30 × 640·1536/1024², rounded. */
const priceMicros = 250n

let resources: AsyncDisposableStack
let database: Database
let place: S3Place
let urls: readonly string[]
let workers: readonly ServiceProcess[]
let firstAnswer: Response

beforeAll(async () => {
  resources = new AsyncDisposableStack()
  const folder = mkdtempSync(path.join(tmpdir(), 'sepia-distributed-'))
  resources.defer(() => rmSync(folder, { recursive: true, force: true }))
  const postgres = resources.use(await startPostgres())
  const s3 = resources.use(await startS3())
  const url = await postgres.createDatabase('shared')
  place = await s3.makeBucket('shared')
  const env = {
    DATABASE_URL: url,
    SEPIA_S3_BUCKET: place.bucket,
    SEPIA_S3_ENDPOINT: place.endpoint!,
    SEPIA_S3_ACCESS_KEY_ID: place.accessKeyId!,
    SEPIA_S3_SECRET_ACCESS_KEY: place.secretAccessKey!,
    SEPIA_TOKEN: 'a-token-of-the-operator',
    SEPIA_CACHE: path.join(folder, 'cache'),
    SEPIA_DATA: path.join(folder, 'data'),
    SEPIA_THREADS: '1',
  }
  const ports = [await freePort(), await freePort()]
  urls = ports.map((port) => `http://127.0.0.1:${port}`)
  const servers = ports.map(
    (port) =>
      new ServiceProcess(
        'server',
        ['serve', '--role', 'api', '--model', model, '--port', `${port}`],
        env,
        'listens at',
      ),
  )
  workers = [1, 2, 3].map(
    (number) => new ServiceProcess(`worker ${number}`, ['worker', '--model', model], env, 'works'),
  )
  const processes = [...servers, ...workers]
  resources.defer(async () => void (await Promise.all(processes.map((process) => process.stop()))))
  // All at once, on an empty database.
  for (const process of processes) process.spawn()
  await Promise.all(processes.map((process) => process.ready()))
  database = resources.use(await openDatabase({ kind: 'postgres', url }))
  firstAnswer = await fetch(`${urls[1]}/v1/usage`, { headers: { authorization: `Bearer ${env.SEPIA_TOKEN}` } })
})
afterAll(() => resources.disposeAsync())

/** An account with a token. */
async function customer(name: string, options: Partial<Account> = {}): Promise<{ account: Account; token: string }> {
  const account = await createAccount(database.db, { name, ...options })
  const { token } = await createToken(database.db, account.id, 'test')
  return { account, token }
}

const ask = (server: number, token: string, place: string, init: RequestInit = {}): Promise<Response> =>
  fetch(urls[server % urls.length] + place, {
    ...init,
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json', 'x-octoai-async': '1' },
  })

const order = (seed: number): RequestInit => ({
  method: 'POST',
  body: JSON.stringify({
    prompt: 'a lighthouse',
    width: 640,
    height: 1536,
    steps: 2,
    cfg_scale: 1,
    seed,
    use_refiner: false,
  }),
})

/** Order a picture at one server, wait for it at the other, and fetch it there; its hash. */
async function makePicture(index: number, token: string): Promise<string> {
  const accepted = await ask(index, token, '/generate/sdxl', order(index % seedCount))
  const { response_id: id } = (await accepted.json()) as { response_id: string }
  for (;;) {
    const poll = await ask(index + 1, token, `/v1/requests/${id}`)
    const { status } = (await poll.json()) as { status: string }
    if (status === 'completed') break
    await pause(200)
  }
  const answer = await ask(index + 1, token, `/v1/responses/${id}`)
  const { images } = (await answer.json()) as { images: { image_b64: string; seed: number }[] }
  expect(images).toMatchObject([{ seed: index % seedCount }])
  return createHash('sha256').update(images[0].image_b64).digest('hex')
}

it('has one first account, whoever of them made it', async () => {
  expect(await firstAnswer.json()).toMatchObject({ account: 'default', images: 0 })
})

it(`shares ${jobCount} jobs: each is done once and charged once`, { timeout: 900_000 }, async () => {
  const { db } = database
  const customers = await Promise.all(['ann', 'bob'].map((name) => customer(name, { prepaid: true })))
  for (const { account } of customers) await credit(db, account, BigInt(jobCount / 2) * priceMicros, account.name)

  const hashes: string[] = []
  const client = async (number: number): Promise<void> => {
    for (let index = number; index < jobCount; index += clientCount)
      hashes[index] = await makePicture(index, customers[(index >> 1) % 2].token)
  }
  await Promise.all(Array.from({ length: clientCount }, (_, number) => client(number)))

  // A seed makes the same picture wherever it is made, and another one another.
  expect(new Set(hashes).size).toBe(seedCount)
  for (let index = seedCount; index < jobCount; index++) expect(hashes[index]).toBe(hashes[index - seedCount])

  const rows = await db.select().from(jobs)
  expect(rows).toHaveLength(jobCount)
  const { state, attempt, crashes, losses } = jobs
  const ends = await db
    .select({ state, attempt, crashes, losses, jobs: count() })
    .from(jobs)
    .groupBy(state, attempt, crashes, losses)
  expect(ends).toEqual([{ state: 'succeeded', attempt: 1, crashes: 0, losses: 0, jobs: jobCount }])

  const entries = await db
    .select({ type: ledgerEntries.type, entries: count(), subjects: sql`count(distinct subject_id)::int` })
    .from(ledgerEntries)
    .where(eq(ledgerEntries.subjectKind, 'job'))
    .groupBy(ledgerEntries.type)
  const once = { entries: jobCount, subjects: jobCount }
  expect(entries.sort((a, b) => a.type.localeCompare(b.type))).toEqual([
    { type: 'capture', ...once },
    { type: 'hold', ...once },
  ])
  for (const { account, token } of customers) {
    const spentMicros = BigInt(jobCount / 2) * priceMicros
    expect(await balanceOf(db, account.id)).toEqual({ balanceMicros: 0n, heldMicros: 0n, spentMicros })
    expect((await ask(0, token, '/generate/sdxl', order(1))).status).toBe(402)
  }

  using blobs = await openS3BlobStore(place)
  const kept = await Array.fromAsync(blobs.list(''))
  expect(kept.map(({ key }) => key).sort()).toEqual(
    rows.flatMap(({ result }) => result!.images.map(({ key }) => key)).sort(),
  )
  // Nobody was idle.
  for (const { output } of workers) expect(output).toContain('"state":"succeeded"')
})

it('counts requests a minute over all of its servers', async () => {
  for (let attempt = 0; ; attempt++) {
    const { token } = await customer(`limited-${attempt}`, { requestsPerMinute: 7, maxQueuedJobs: 0 })
    const minute = new Date().getUTCMinutes()
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, index) => ask(index, token, '/generate/sdxl', order(1))),
    )
    // Across two minutes it may be twice as many.
    if (new Date().getUTCMinutes() !== minute) continue
    const told = answers.map(({ status, headers }) => `${status} ${headers.has('retry-after')}`)
    const messages = await Promise.all(answers.map((answer) => answer.text()))
    expect(told).toEqual(told.map(() => expect.stringMatching(/^429 /)))
    expect(messages.filter((message) => message.includes('may send 7 a minute'))).toHaveLength(13)
    break
  }
})
