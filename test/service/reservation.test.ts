import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { inArray } from 'drizzle-orm'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import type { Account } from '../../src/service/accounts/account.ts'
import { credit } from '../../src/service/billing/ledger.ts'
import { jobs as jobTable } from '../../src/service/db/schema.ts'
import { queuesOf } from '../../src/service/engines/deployment.ts'
import { claimJob } from '../../src/service/jobs/claim-job.ts'
import { cancelJob, succeedJob, type Claim } from '../../src/service/jobs/job-transitions.ts'
import type { JobNotice } from '../../src/service/jobs/job-notices.ts'
import { openJobs, type Jobs } from '../../src/service/jobs/jobs.ts'
import {
  asynchronous,
  fixtureDeployment,
  newAccount,
  openOffice,
  orderFor,
  type Office,
} from '../support/job-office.ts'
import { databaseKinds, makeDatabase } from '../support/test-database.ts'

const [queue] = queuesOf(fixtureDeployment).keys()

describe.each(databaseKinds)('a process that is kept for a job on %s', (kind) => {
  const stack = new AsyncDisposableStack()
  let filesDir: string
  let office: Office
  let jobs: Jobs
  let account: Account
  /** What became of the reservations of one test. */
  let started: Claim[]
  let accepted: Promise<boolean>[]
  let released: number

  beforeAll(async () => {
    filesDir = mkdtempSync(path.join(tmpdir(), 'sepia-test-'))
    stack.defer(() => rmSync(filesDir, { recursive: true }))
    const made = stack.use(await makeDatabase(kind))
    office = stack.use(await openOffice(made.place, filesDir))
    const reserve = () => ({
      start: (claim: Claim, whether: Promise<boolean>) => {
        started.push(claim)
        accepted.push(whether)
      },
      release: async () => void released++,
    })
    jobs = stack.use(await openJobs({ ...office.context, reserve }))
  })
  afterAll(() => stack.disposeAsync())
  beforeEach(async () => {
    started = []
    accepted = []
    released = 0
    account = await newAccount(office.database)
  })
  afterEach(async () => {
    const left = await office.database.db
      .select()
      .from(jobTable)
      .where(inArray(jobTable.state, ['queued', 'running']))
    for (const row of left) await cancelJob(office.context, row)
  })

  const submit = (who = account) => jobs.submit(who, orderFor('pictures'), asynchronous)

  it('begins with a job that finds nobody waiting, while the transaction that accepts it is written', async () => {
    const heard: JobNotice[] = []
    using _ear = office.context.notices.subscribeAll({ onNotice: (notice) => heard.push(notice), onGap() {} })
    const job = await submit()
    expect(job).toMatchObject({ state: 'running', attempt: 1, queuePosition: null })
    expect(job).not.toHaveProperty('task')
    expect([started.length, released]).toEqual([1, 0])
    expect(await accepted[0]).toBe(true)
    const [row] = await office.database.db
      .select()
      .from(jobTable)
      .where(inArray(jobTable.id, [job.id]))
    const { turn: _turn, ...known } = row
    expect(started[0].job).toMatchObject(known)
    expect(await claimJob(office.context, queue)).toBeNull()
    const result = { images: [], encoding: 'png', predictionTimeMs: 1, warnings: [] } as const
    expect(await succeedJob(office.context, started[0], result)).toBe(true)
    await jobs.ended(job.id)
    // Nobody else was called for it.
    expect(heard.flatMap((notice) => (notice.type === 'state' ? [notice.state] : []))).not.toContain('queued')
  })

  it('is given back for a job that others go before, who are told of it', async () => {
    const plain = stack.use(await openJobs(office.context))
    const first = await plain.submit(account, orderFor('pictures'), asynchronous)
    const told = Promise.withResolvers<JobNotice>()
    using _ear = office.context.notices.subscribeAll({
      // Those of jobs before may still be on their way.
      onNotice: (notice) => void (notice.jobId > first.id && told.resolve(notice)),
      onGap() {},
    })
    const job = await submit()
    expect(job).toMatchObject({ state: 'queued', queuePosition: 2 })
    expect([started.length, released]).toEqual([1, 1])
    expect(await accepted[0]).toBe(false)
    expect(await told.promise).toMatchObject({ type: 'state', state: 'queued', jobId: job.id })
  })

  it('is given back unused where others go before a job of an account with limits', async () => {
    await stack.use(await openJobs(office.context)).submit(account, orderFor('pictures'), asynchronous)
    const limited = await newAccount(office.database, { maxQueuedJobs: 5 })
    expect(await submit(limited)).toMatchObject({ state: 'queued', queuePosition: 2 })
    expect([started.length, released]).toEqual([0, 1])
  })

  it('begins once the balance is known to bear the job, where the account is prepaid', async () => {
    const prepaid = await newAccount(office.database, { prepaid: true })
    await credit(office.database.db, prepaid, 1_000_000n, 'invoice')
    expect(await submit(prepaid)).toMatchObject({ state: 'running' })
    expect([started.length, released]).toEqual([1, 0])
  })

  it('is not asked for where the account may have only so many running', async () => {
    const job = await submit(await newAccount(office.database, { maxRunningJobs: 1 }))
    expect(job).toMatchObject({ state: 'queued' })
    expect([started.length, released]).toEqual([0, 0])
  })

  it('is given back where a limit came in this moment', async () => {
    const limited = await newAccount(office.database, { maxRunningJobs: 1 })
    const job = await submit({ ...limited, maxRunningJobs: null })
    expect(job).toMatchObject({ state: 'queued', queuePosition: 1 })
    expect([started.length, released]).toEqual([1, 1])
    expect(await accepted[0]).toBe(false)
  })

  it('is given back where the message of a job whose lease has lapsed goes first', async () => {
    const lapsed = await submit()
    await office.database.db.transaction((tx) => office.context.messages.takeBack(tx, queue, lapsed.id))
    const job = await submit()
    expect(job).toMatchObject({ state: 'queued', queuePosition: 1, turn: 1 })
    expect([started.length, released]).toEqual([2, 1])
    expect(await Promise.all(accepted)).toEqual([true, false])
  })

  it('is given back by an acceptance that fails', async () => {
    const poor = await newAccount(office.database, { prepaid: true })
    await expect(submit(poor)).rejects.toMatchObject({ code: 'no_credit' })
    expect([started.length, released]).toEqual([0, 1])
    expect((await jobs.list(poor, { limit: 10, offset: 0 })).total).toBe(0)
  })
  it('leaves nothing of a run that was not accepted, and the job runs as others do', async () => {
    const runner = await office.run()
    const limited = await newAccount(office.database, { maxRunningJobs: 1 })
    const heard = Promise.withResolvers<boolean>()
    const reserve = (name: string) => {
      const reservation = runner.reserve(name)
      return (
        reservation && {
          ...reservation,
          start: (claim: Claim, whether: Promise<boolean>) => {
            void whether.then(heard.resolve)
            reservation.start(claim, whether)
          },
        }
      )
    }
    const early = stack.use(await openJobs({ ...office.context, reserve }))
    const job = await early.submit({ ...limited, maxRunningJobs: null }, orderFor('pictures'), asynchronous)
    expect(await heard.promise).toBe(false)
    expect(job).toMatchObject({ state: 'queued', queuePosition: 1 })
    const end = await early.ended(job.id)
    expect(end).toMatchObject({ state: 'succeeded', attempt: 1, losses: 0, crashes: 0 })
    const files = readdirSync(path.join(filesDir, 'jobs', job.id), { recursive: true, withFileTypes: true })
    expect(files.filter((entry) => entry.isFile())).toHaveLength(1)
    expect(await early.images(end)).toHaveLength(1)
    await runner[Symbol.asyncDispose]()
  })
})
