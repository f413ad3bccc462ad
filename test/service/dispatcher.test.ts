import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { eq, sql } from 'drizzle-orm'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { Account } from '../../src/service/accounts/account.ts'
import type { DatabasePlace } from '../../src/service/db/database.ts'
import { jobs as jobTable } from '../../src/service/db/schema.ts'
import { queuesOf } from '../../src/service/engines/deployment.ts'
import { claimJob } from '../../src/service/jobs/claim-job.ts'
import { takeBackJob } from '../../src/service/jobs/job-transitions.ts'
import type { Job } from '../../src/service/jobs/job.ts'
import type { SubmitContext } from '../../src/service/jobs/submit-job.ts'
import {
  asynchronous,
  fixtureDeployment,
  newAccount,
  openOffice,
  orderFor,
  type Office,
} from '../support/job-office.ts'
import { startPostgres } from '../support/postgres-server.ts'
import { makeDatabase } from '../support/test-database.ts'
import { isRunning } from '../worker/fixture-task.ts'

let folder: string
let stack: AsyncDisposableStack

beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'sepia-test-'))
  stack = new AsyncDisposableStack()
})
afterEach(async () => {
  await stack.disposeAsync()
  rmSync(folder, { recursive: true })
})

/** An office with an account, on a database of its own if no place is given. */
async function open(
  kindOrPlace: DatabasePlace['kind'] | DatabasePlace,
  overrides: Partial<SubmitContext> = {},
): Promise<{ readonly office: Office; readonly account: Account }> {
  const place = typeof kindOrPlace === 'string' ? stack.use(await makeDatabase(kindOrPlace)).place : kindOrPlace
  const office = stack.use(await openOffice(place, path.join(folder, 'files'), overrides))
  return { office, account: await newAccount(office.database) }
}

/** Resolves when the job runs. */
async function begun({ jobs }: Office, { id }: Job): Promise<void> {
  for await (const event of jobs.watch(id, new AbortController().signal))
    if (event.type === 'state' && event.job.state === 'running') return
}

describe('jobs of several models', () => {
  const deployment = { ...fixtureDeployment, refiner: { path: 'refiner', hash: 'b'.repeat(64) } }

  /** The order in which one engine carries out two jobs without the refiner and two with it, which take turns. */
  async function orderOf(now: () => Date): Promise<string> {
    const { account, office } = await open('pglite', { deployment, now })
    const file = path.join(folder, 'order')
    const submitted: Job[] = []
    for (const seed of [0, 1, 2, 3]) {
      const order = orderFor(`note ${file}`, { seeds: [seed], useRefiner: seed % 2 === 1 })
      submitted.push(await office.jobs.submit(account, order, asynchronous))
    }
    await office.run()
    await Promise.all(submitted.map(({ id }) => office.jobs.ended(id)))
    return readFileSync(file, 'utf8').trim().split('\n').join('')
  }

  it('go first where their model is loaded', async () => {
    expect(await orderOf(() => new Date())).toBe('0213')
  })

  it('are not passed over for longer than half a minute', async () => {
    let ahead = 0
    // Each look at the clock is half a minute later.
    expect(await orderOf(() => new Date(Date.now() + 31_000 * ahead++))).toBe('0123')
  })

  it('get the files of their queue', async () => {
    const { account, office } = await open('pglite', { deployment })
    await office.run()
    const filesOf = async (useRefiner: boolean) => {
      const { id } = await office.jobs.submit(account, orderFor('files', { useRefiner }), asynchronous)
      return JSON.parse((await office.jobs.ended(id)).error!.message) as unknown
    }
    expect(await filesOf(false)).toEqual({ checkpoint: 'model', refiner: null, pictures: {}, assets: {} })
    expect(await filesOf(true)).toEqual({ checkpoint: 'model', refiner: 'refiner', pictures: {}, assets: {} })
  })
})

describe('a dispatcher', () => {
  it('takes what a silent one had, once its lease has lapsed', async () => {
    const { account, office } = await open('postgres')
    const job = await office.jobs.submit(account, orderFor('pictures'), asynchronous)
    // Somebody takes it, and is not heard of any more.
    const [queue] = queuesOf(fixtureDeployment).keys()
    await claimJob(office.context, queue)
    await office.run()
    await office.database.db.execute(sql`update pgboss.job set heartbeat_on = now() - interval '1 minute'`)
    expect(await office.jobs.ended(job.id)).toMatchObject({ state: 'succeeded', attempt: 2, losses: 1 })
  })

  it('takes what a killed one had when it starts on the same data folder', async () => {
    const { account, office } = await open('pglite')
    const job = await office.jobs.submit(account, orderFor('pictures'), asynchronous)
    const [queue] = queuesOf(fixtureDeployment).keys()
    await claimJob(office.context, queue)
    const startMs = performance.now()
    await office.run()
    expect(await office.jobs.ended(job.id)).toMatchObject({ state: 'succeeded', attempt: 2, losses: 1 })
    expect(performance.now() - startMs).toBeLessThan(10_000)
  })

  it('stops a job that is not its own any more', async () => {
    const { account, office } = await open('postgres')
    const runner = await office.run()
    const [pid] = runner.enginePids
    const go = path.join(folder, 'go')
    const job = await office.jobs.submit(account, orderFor(`wait ${go}`), asynchronous)
    await begun(office, job)
    const [row] = await office.database.db.select().from(jobTable).where(eq(jobTable.id, job.id))
    await takeBackJob(office.context, row)
    // Its next beat finds the lease gone, and then it is free to take the job again.
    await begun(office, job)
    writeFileSync(go, '')
    expect(await office.jobs.ended(job.id)).toMatchObject({ state: 'succeeded', attempt: 2, losses: 1 })
    expect(isRunning(pid)).toBe(false)
  })

  it('writes the end of a job when its database is back', async () => {
    const postgres = stack.use(await startPostgres())
    const { account, office } = await open({ kind: 'postgres', url: await postgres.createDatabase('outage') })
    await office.run()
    const go = path.join(folder, 'go')
    const job = await office.jobs.submit(account, orderFor(`wait ${go}`), asynchronous)
    await begun(office, job)
    await postgres.kill()
    writeFileSync(go, '')
    await postgres.restart()
    expect(await office.jobs.ended(job.id)).toMatchObject({ state: 'succeeded', attempt: 1, losses: 0 })
    expect(await office.jobs.images(await office.jobs.ended(job.id))).toHaveLength(1)
    const next = await office.jobs.submit(account, orderFor('pictures'), asynchronous)
    expect(await office.jobs.ended(next.id)).toMatchObject({ state: 'succeeded' })
  })

  it('in another process hears of cancellations, and tells of ends', async () => {
    const made = stack.use(await makeDatabase('postgres'))
    const { account, office } = await open(made.place)
    const { office: elsewhere } = await open(made.place)
    await elsewhere.run()
    const never = path.join(folder, 'never')
    const job = await office.jobs.submit(account, orderFor(`wait ${never}`), asynchronous)
    await begun(office, job)
    await office.jobs.cancel(account, job.id)
    const next = await office.jobs.submit(account, orderFor('pictures'), asynchronous)
    expect(await office.jobs.ended(next.id)).toMatchObject({ state: 'succeeded' })
  })
})
