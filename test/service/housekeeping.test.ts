import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { eq } from 'drizzle-orm'
import { afterAll, beforeAll, expect, it } from 'vitest'
import type { Account } from '../../src/service/accounts/account.ts'
import { jobs as jobTable } from '../../src/service/db/schema.ts'
import { queuesOf } from '../../src/service/engines/deployment.ts'
import { claimJob } from '../../src/service/jobs/claim-job.ts'
import { tidy } from '../../src/service/jobs/housekeeping.ts'
import { inputKey, outputKey } from '../../src/service/jobs/job-files.ts'
import { failJob, succeedJob } from '../../src/service/jobs/job-transitions.ts'
import { newJobId, type Job } from '../../src/service/jobs/job.ts'
import {
  asynchronous,
  fixtureDeployment,
  newAccount,
  openOffice,
  orderFor,
  type Office,
} from '../support/job-office.ts'
import { makeDatabase } from '../support/test-database.ts'

const [queue] = queuesOf(fixtureDeployment).keys()
const stack = new AsyncDisposableStack()
const nothing = { results: 0, prompts: 0, files: 0 }
let office: Office
let account: Account

beforeAll(async () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'sepia-test-'))
  stack.defer(() => rmSync(folder, { recursive: true }))
  office = stack.use(await openOffice(stack.use(await makeDatabase('pglite')).place, folder))
  account = await newAccount(office.database)
})
afterAll(() => stack.disposeAsync())

/** Housekeeping as it is so many hours from now. */
function tidyIn(hours: number, graceMs = 0) {
  const { context } = office
  return tidy({ ...context, now: () => new Date(Date.now() + hours * 3_600_000) }, graceMs)
}

/** Make a job that has succeeded, with one picture. */
async function succeeded(changes: Parameters<typeof orderFor>[1], manner: object = {}): Promise<Job> {
  const order = orderFor('pictures', changes)
  const { id } = await office.jobs.submit(account, order, { ...asynchronous, ...manner })
  const claim = (await claimJob(office.context, queue))!
  const key = outputKey(id, 1, 0)
  await office.blobs.put(key, new Uint8Array(3))
  const images = [{ key, seed: 1 }]
  await succeedJob(office.context, claim, { images, encoding: 'png', predictionTimeMs: 1, warnings: [] })
  return office.jobs.ended(id)
}

it('removes pictures of asynchronous requests after a day, of synchronous ones after an hour', async () => {
  const later = await succeeded({})
  const sooner = await succeeded({}, { synchronous: true })
  expect(await tidyIn(0.9)).toEqual(nothing)
  expect(await tidyIn(1.1)).toEqual({ ...nothing, results: 1 })
  expect(await office.jobs.images(later)).toHaveLength(1)
  await expect(office.jobs.images(sooner)).rejects.toMatchObject({ code: 'gone' })
  expect(await tidyIn(24.1)).toEqual({ ...nothing, results: 1 })
  await expect(office.jobs.images(later)).rejects.toMatchObject({ code: 'gone' })
  expect(await office.jobs.get(account, later.id)).toMatchObject({ state: 'succeeded', result: null })
})

it('forgets prompts that were to be kept after fifteen days', async () => {
  const { id } = await succeeded({ logPrompt: true })
  const taskOf = async () => (await office.database.db.select().from(jobTable).where(eq(jobTable.id, id)))[0].task
  expect((await tidyIn(24 * 14.9)).prompts).toBe(0)
  expect(await taskOf()).toMatchObject({ prompt: 'pictures' })
  expect((await tidyIn(24 * 15.1)).prompts).toBe(1)
  expect(await taskOf()).toBeNull()
})

it('frees idempotency keys after a day', async () => {
  const idempotency = { key: 'k', bodyHash: new Uint8Array(2) }
  const { id } = await succeeded({}, { idempotency })
  const submit = () => office.jobs.submit(account, orderFor('pictures'), { ...asynchronous, idempotency })
  await tidyIn(23.9)
  expect((await submit()).id).toBe(id)
  await tidyIn(24.1)
  const next = await submit()
  expect(next.id).not.toBe(id)
  await office.jobs.cancel(account, next.id)
})

it('sweeps files that no job refers to, but not those of requests that are just being accepted', async () => {
  const { blobs, context, jobs } = office
  const hash = '0'.repeat(64)
  const kept = await succeeded({})
  const orphans = [
    inputKey(newJobId(), hash),
    outputKey(newJobId(), 1, 0),
    inputKey(kept.id, hash),
    outputKey(kept.id, 1, 1),
    outputKey(kept.id, 2, 0),
  ]
  const queued = await jobs.submit(account, orderFor('pictures', { initImage: new Uint8Array(9) }), asynchronous)
  orphans.push(outputKey(queued.id, 0, 0))
  for (const key of orphans) await blobs.put(key, new Uint8Array(1))
  expect(await tidyIn(0, 60_000)).toEqual(nothing)
  expect(await tidyIn(0.5, 60_000)).toEqual({ ...nothing, files: orphans.length })
  expect(await jobs.images(kept)).toHaveLength(1)

  const claim = (await claimJob(context, queue))!
  await blobs.put(outputKey(queued.id, 1, 0), new Uint8Array(1))
  await blobs.put(outputKey(queued.id, 7, 0), new Uint8Array(1))
  expect(await tidyIn(0)).toEqual({ ...nothing, files: 1 })
  await failJob(context, claim, { code: 'not_finite', message: 'no numbers' })
  // Its input, and what its attempt has stored.
  expect(await tidyIn(0)).toEqual({ ...nothing, files: 2 })
})
