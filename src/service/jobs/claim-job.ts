// How a dispatcher gets work: the message at the head of a queue is leased and its job set running, in one transaction.
import { and, count, eq, getTableColumns, inArray, isNotNull, sql } from 'drizzle-orm'
import { lockAccount } from '../billing/ledger.ts'
import type { Transaction } from '../db/database.ts'
import { accounts, jobs } from '../db/schema.ts'
import { notified } from './job-notices.ts'
import {
  endRow,
  heldBy,
  logTransition,
  lostTooOften,
  maxLosses,
  type Claim,
  type ClaimedRow,
  type JobRow,
  type JobStore,
} from './job-transitions.ts'
import type { Message } from './message-queue.ts'

/** Rolls the transaction back: the account of the job at the head has as many running as it may have. */
class AccountBusy extends Error {
  readonly accountId: string

  constructor(accountId: string) {
    super(`${accountId} has enough jobs running`)
    this.accountId = accountId
  }
}

/** Rolls an acceptance back that was to start its job: another one goes first, or the account may have no more running. */
export class NotItsTurn extends Error {}

/**
 * Lease the first message of `queue` and set its job running. Null when nothing waits that may run: accounts with as many
 * running jobs as they may have are passed over, of which `onPassedOver` is told. A job over which too many dispatchers
 * were lost fails on the way.
 */
export async function claimJob(
  store: JobStore,
  queue: string,
  onPassedOver: () => void = () => {},
): Promise<Claim | null> {
  const busyAccounts = new Set<string>()
  for (;;) {
    try {
      const taken = await store.database.db.transaction((tx) => takeFirst(tx, store, queue, [...busyAccounts]))
      if (!taken) return null
      const { claim, message } = taken
      if (claim && claim.job.losses < maxLosses) {
        logTransition(store, claim.job, 'running')
        return claim
      }
      if (claim) logTransition(store, claim.job, 'failed', { reason: 'lost', losses: claim.job.losses })
      else store.log.warn({ job: message.jobId }, 'a message without an outstanding job was dropped')
    } catch (error) {
      if (!(error instanceof AccountBusy)) throw error
      onPassedOver()
      busyAccounts.add(error.accountId)
      for (const id of await accountsAtTheirLimit(store)) busyAccounts.add(id)
    }
  }
}

/** What claiming a job comes to that is just being accepted. */
export function firstClaim(store: JobStore, job: ClaimedRow): Claim {
  const message = store.messages.firstLease(job.queue, job.id)
  return { message, job: { ...job, state: 'running', attempt: 1, startedAt: store.now() } }
}

/** Take the job that `tx` has written down and queued, at once and exactly as `claim` says. Throws {@link NotItsTurn}. */
export async function claimAccepted(tx: Transaction, store: JobStore, { job, message }: Claim): Promise<void> {
  const first = await store.messages.take(tx, message.queue, [])
  if (first?.jobId !== job.id || first.attempt.retryCount !== message.attempt.retryCount) throw new NotItsTurn()
  const taken = await setRunning(tx, store, first, job.startedAt ?? store.now())
  if (taken?.job.attempt !== job.attempt || taken.most !== null) throw new NotItsTurn()
}

async function takeFirst(
  tx: Transaction,
  store: JobStore,
  queue: string,
  busyAccounts: readonly string[],
): Promise<{ readonly message: Message; readonly claim: Claim | null } | null> {
  const message = await store.messages.take(tx, queue, busyAccounts)
  if (!message) return null
  const taken = await setRunning(tx, store, message)
  if (!taken) {
    await store.messages.complete(tx, message)
    return { message, claim: null }
  }
  const { job, most } = taken
  if (most !== null) await requireRoom(tx, job.accountId, most)
  if (job.losses >= maxLosses) {
    await store.messages.complete(tx, message)
    await endRow(tx, store, job, { state: 'failed', error: lostTooOften(job.losses) }, heldBy(job))
  }
  return { message, claim: { message, job } }
}

/** The row of a message's job, running from now on, and how many its account may have so; null when it has ended. */
async function setRunning(
  tx: Transaction,
  store: JobStore,
  { jobId, queue }: Message,
  startedAt: Date = store.now(),
): Promise<{ readonly job: JobRow; readonly most: number | null } | null> {
  const at = startedAt.toISOString()
  const told = notified({ type: 'state', jobId, state: 'running', queue })
  const [taken] = await tx
    .update(jobs)
    .set({
      state: 'running',
      attempt: sql`${jobs.attempt} + 1`,
      // Whoever ran it until now has fallen silent.
      losses: sql`${jobs.losses} + case when ${jobs.state} = 'running' then 1 else 0 end`,
      startedAt: sql`coalesce(${jobs.startedAt}, ${at}::timestamptz)`,
    })
    .where(and(eq(jobs.id, jobId), inArray(jobs.state, ['queued', 'running'])))
    .returning({ ...getTableColumns(jobs), told, mostRunning })
  if (!taken) return null
  const { told: _, mostRunning: most, ...job } = taken
  return { job, most }
}

/** The limit of the account of a row of `jobs`. */
const mostRunning = sql<number | null>`(select max_running_jobs from accounts where accounts.id = jobs.account_id)`

/** Counts under the account's lock, so that two dispatchers cannot pass the limit together. */
async function requireRoom(tx: Transaction, accountId: string, most: number): Promise<void> {
  await lockAccount(tx, accountId)
  const [running] = await tx
    .select({ count: count() })
    .from(jobs)
    .where(and(eq(jobs.accountId, accountId), eq(jobs.state, 'running')))
  if (running.count > most) throw new AccountBusy(accountId)
}

async function accountsAtTheirLimit({ database }: JobStore): Promise<string[]> {
  const running = sql`(select count(*) from ${jobs} where ${jobs.accountId} = ${accounts.id} and ${jobs.state} = 'running')`
  const rows = await database.db
    .select({ id: accounts.id })
    .from(accounts)
    .where(and(isNotNull(accounts.maxRunningJobs), sql`${accounts.maxRunningJobs} <= ${running}`))
  return rows.map(({ id }) => id)
}
