import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { asc, eq } from 'drizzle-orm'
import * as fc from 'fast-check'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { balanceOf } from '../../src/service/billing/ledger.ts'
import { jobs as jobTable, ledgerEntries } from '../../src/service/db/schema.ts'
import { queuesOf } from '../../src/service/engines/deployment.ts'
import { claimJob } from '../../src/service/jobs/claim-job.ts'
import {
  cancelJob,
  failJob,
  giveBackJob,
  maxCrashes,
  maxLosses,
  noteProgress,
  succeedJob,
  takeBackJob,
  type Claim,
  type JobRow,
} from '../../src/service/jobs/job-transitions.ts'
import { hasEnded } from '../../src/service/jobs/job.ts'
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
const result = { images: [], encoding: 'png', predictionTimeMs: 1, warnings: [] } as const
const why = { code: 'engine_crashed', message: 'the engine process died' } as const
const stack = new AsyncDisposableStack()
let office: Office

beforeAll(async () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'sepia-test-'))
  stack.defer(() => rmSync(folder, { recursive: true }))
  office = stack.use(await openOffice(stack.use(await makeDatabase('pglite')).place, folder))
})
afterAll(() => stack.disposeAsync())

/** What can happen; `pick` chooses among the claims that were ever made, stale ones too, or among the jobs. */
const events = fc.array(
  fc.record({
    event: fc.constantFrom(
      'submit',
      'submit',
      'claim',
      'claim',
      'claim',
      'progress',
      'succeed',
      'fail',
      'return',
      'crash',
      'lose',
      'takeBack',
      'cancel',
    ),
    pick: fc.nat(1000),
  }),
  { minLength: 5, maxLength: 30 },
)

async function happen(
  event: string,
  pick: number,
  accountId: string,
  claims: Claim[],
  submit: () => Promise<unknown>,
): Promise<string | null> {
  const { context, database } = office
  const claim = claims.length > 0 ? claims[pick % claims.length] : null
  const rows = await database.db
    .select()
    .from(jobTable)
    .where(eq(jobTable.accountId, accountId))
    .orderBy(asc(jobTable.id))
  const row = rows.length > 0 ? rows[pick % rows.length] : null
  switch (event) {
    case 'submit':
      await submit()
      return null
    case 'claim': {
      const taken = await claimJob(context, queue)
      if (taken) claims.push(taken)
      return null
    }
    case 'takeBack':
      if (row?.state === 'running') await takeBackJob(context, row)
      return null
    case 'cancel':
      if (row) await cancelJob(context, row)
      return null
    default:
  }
  if (!claim) return null
  const current = rows.find(({ id }) => id === claim.job.id)!
  const holds = current.state === 'running' && current.attempt === claim.job.attempt
  const done = await report(event, claim)
  // Whoever does not hold the job changes nothing, and is told so.
  return done === holds ? null : `${event} by ${holds ? 'the holder' : 'somebody else'} of ${current.id}: ${done}`
}

function report(event: string, claim: Claim): Promise<boolean> {
  const { context } = office
  switch (event) {
    case 'progress':
      return noteProgress(context, claim, 1, 2)
    case 'succeed':
      return succeedJob(context, claim, result)
    case 'fail':
      return failJob(context, claim, why)
    case 'return':
      return giveBackJob(context, claim, 'returned', why)
    case 'crash':
      return giveBackJob(context, claim, 'crashed', why)
    default:
      return giveBackJob(context, claim, 'lost', why)
  }
}

/** Where row, message and ledger do not say the same. */
async function disagreements(row: JobRow): Promise<string[]> {
  const { context, database } = office
  const ended = hasEnded(row)
  const entries = await database.db.select().from(ledgerEntries).where(eq(ledgerEntries.subjectId, row.id))
  const end = row.state === 'succeeded' ? 'capture' : 'release'
  const rules = {
    message:
      (await context.messages.stateOf(row.queue, row.id)) ===
      (row.state === 'queued' ? 'waiting' : row.state === 'running' ? 'leased' : 'gone'),
    ledger:
      entries
        .map(({ type }) => type)
        .sort()
        .join() === (ended ? [end, 'hold'].sort().join() : 'hold'),
    task: (row.task === null) === ended,
    endedAt: (row.endedAt === null) === !ended,
    crashes: ended || row.crashes < maxCrashes,
    losses: ended || row.losses < maxLosses,
  }
  return Object.entries(rules).flatMap(([rule, holds]) => (holds ? [] : [`${row.id}, ${row.state}: ${rule}`]))
}

it('row, message and ledger agree, whatever happens in whichever order', async () => {
  await fc.assert(
    fc.asyncProperty(events, async (happenings) => {
      const account = await newAccount(office.database)
      const claims: Claim[] = []
      const submit = () => office.jobs.submit(account, orderFor('pictures'), asynchronous)
      const wrong: string[] = []
      for (const { event, pick } of happenings) {
        const problem = await happen(event, pick, account.id, claims, submit)
        if (problem !== null) wrong.push(problem)
      }
      const rows = await office.database.db.select().from(jobTable).where(eq(jobTable.accountId, account.id))
      for (const row of rows) wrong.push(...(await disagreements(row)))
      expect(wrong).toEqual([])
      const sum = (fits: (row: JobRow) => boolean): bigint =>
        rows.filter(fits).reduce((total, { priceMicros }) => total + priceMicros, 0n)
      const [spent, held] = [sum(({ state }) => state === 'succeeded'), sum((row) => !hasEnded(row))]
      expect(await balanceOf(office.database.db, account.id)).toEqual({
        balanceMicros: -spent - held,
        heldMicros: held,
        spentMicros: spent,
      })
      // The next sequence begins with an empty queue.
      for (const row of rows) await cancelJob(office.context, row)
    }),
    { numRuns: 40 },
  )
})
