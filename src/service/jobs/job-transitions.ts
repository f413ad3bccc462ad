// Every way in which a job's state changes: queued → running → succeeded, failed or cancelled, and running → queued when
// a dispatcher gives it back. Each is one transaction over the job's message, its row and its hold in the ledger, locked
// in this order, and fenced by the attempt, so that a dispatcher that was superseded can write nothing. Each writes one
// log line and sends one notice.
import { and, eq, inArray, sql, type SQL } from 'drizzle-orm'
import type { ErrorDetail } from '../../errors.ts'
import type { Logger } from '../../logger.ts'
import { requireSettled, settlement } from '../billing/ledger.ts'
import type { Database, Transaction } from '../db/database.ts'
import { jobs, previews, type JobResult, type JobState } from '../db/schema.ts'
import type { JobMetrics } from '../metrics.ts'
import { notified, type JobNotices } from './job-notices.ts'
import { finalStates, jobColumns, type Job } from './job.ts'
import type { Message, MessageQueue } from './message-queue.ts'

/** What transitions need of the surroundings. */
export type JobStore = {
  readonly database: Database
  readonly messages: MessageQueue
  readonly notices: JobNotices
  readonly log: Logger
  readonly metrics: JobMetrics
  readonly now: () => Date
}

/** A job as it lies in the table. */
export type JobRow = typeof jobs.$inferSelect

/** A job in a dispatcher's hands; its turn may not be known yet, and is over. */
export type Claim = { readonly message: Message; readonly job: ClaimedRow }

/** What a dispatcher knows of a job. */
export type ClaimedRow = Omit<JobRow, 'turn'>

/** Why a running job goes back to the queue: `returned` counts as if it had never been taken. */
export type GiveBackReason =
  /** Its dispatcher stops. */
  | 'returned'
  /** Its engine process died, or could not work. */
  | 'crashed'
  /** Its dispatcher is gone, or cannot reach the file store. */
  | 'lost'

/** Engine processes that may fail over a job before the job fails. */
export const maxCrashes = 2
/** Dispatchers that may be lost over a job before the job fails. */
export const maxLosses = 5

const resultKeptMs = { asynchronous: 24 * 60 * 60 * 1000, synchronous: 60 * 60 * 1000 }

/** Rolls a transaction back whose job or lease is somebody else's by now. */
class Superseded extends Error {}

/** Note how far a job is; false when it is not this dispatcher's any more. */
export async function noteProgress(store: JobStore, { job }: Claim, step: number, of: number): Promise<boolean> {
  const changed = await store.database.db
    .update(jobs)
    .set({ step, steps: of })
    .where(heldBy(job))
    .returning({ told: notified({ type: 'progress', jobId: job.id, step, of }) })
  return changed.length === 1
}

/** Overwrite the job's latest preview. */
export async function notePreview(store: JobStore, { job }: Claim, step: number, jpeg: Uint8Array): Promise<void> {
  const { db } = store.database
  await db
    .insert(previews)
    .select(
      db
        .select({ jobId: jobs.id, step: sql<number>`${step}::int`.as('step'), jpeg: bytes(jpeg).as('jpeg') })
        .from(jobs)
        .where(heldBy(job)),
    )
    .onConflictDoUpdate({ target: previews.jobId, set: { step, jpeg } })
    .returning({ told: notified({ type: 'preview', jobId: job.id, step }) })
}

/** End a job with pictures and take its price; false when it is not this dispatcher's any more. */
export function succeedJob(store: JobStore, claim: Claim, result: JobResult): Promise<boolean> {
  return finishJob(store, claim, { state: 'succeeded', result })
}

/** End a job with an error and give its price back; false when it is not this dispatcher's any more. */
export function failJob(store: JobStore, claim: Claim, error: ErrorDetail): Promise<boolean> {
  return finishJob(store, claim, { state: 'failed', error })
}

type Outcome =
  | { readonly state: 'succeeded'; readonly result: JobResult }
  | { readonly state: 'failed'; readonly error: ErrorDetail }
  | { readonly state: 'cancelled' }

async function finishJob(store: JobStore, { job, message }: Claim, outcome: Outcome): Promise<boolean> {
  const ended = await fenced(store, async (tx) => {
    if (!(await store.messages.complete(tx, message))) throw new Superseded()
    return endRow(tx, store, job, outcome, heldBy(job))
  })
  if (!ended) return false
  store.notices.tellEnd(ended)
  logTransition(store, job, outcome.state, outcome.state === 'failed' ? { code: outcome.error.code } : {})
  return true
}

/** Columns of an outstanding job that can be others by now than when it was read, and its turn. */
const { attempt, crashes, losses, startedAt, step, steps, turn } = jobColumns
const changing = { attempt, crashes, losses, startedAt, step, steps, turn }

/** Write the end of a job whose message is dealt with; to be used in that message's transaction. The job as it is then. */
export async function endRow(
  tx: Transaction,
  store: JobStore,
  job: ClaimedRow,
  outcome: Outcome,
  where: SQL | undefined,
): Promise<Job> {
  const at = store.now()
  const keptMs = job.synchronous ? resultKeptMs.synchronous : resultKeptMs.asynchronous
  const told = notified({ type: 'state', jobId: job.id, state: outcome.state, queue: job.queue })
  const subject = ledgerSubject(job.id)
  const entry = outcome.state === 'succeeded' ? 'capture' : 'release'
  const end = {
    state: outcome.state,
    result: outcome.state === 'succeeded' ? outcome.result : null,
    error: outcome.state === 'failed' ? storable(outcome.error) : null,
    expiresAt: outcome.state === 'succeeded' ? new Date(at.getTime() + keptMs) : null,
    endedAt: at,
  }
  const [changed] = await tx
    .with(tx.$with('settled', {}).as(settlement(subject, entry)))
    .update(jobs)
    .set({
      ...end,
      ...(outcome.state === 'succeeded' && { step: sql`${jobs.steps}` }),
      task: job.logPrompt ? job.task : null,
    })
    .where(where)
    .returning({ ...changing, told, settled: sql<number>`(select count(*)::int from settled)` })
  if (!changed) throw new Superseded()
  const { told: _told, settled, ...known } = changed
  await requireSettled(tx, subject, entry, settled)
  if (!job.synchronous) await tx.delete(previews).where(eq(previews.jobId, job.id))
  const { task: _task, bodyHash: _bodyHash, ...shown } = job
  return { ...shown, ...known, ...end, queuePosition: null }
}

/**
 * Put a running job back at its place in the queue, or end it with `why` when that has happened too often; false when it
 * is not this dispatcher's any more.
 */
export async function giveBackJob(
  store: JobStore,
  claim: Claim,
  reason: GiveBackReason,
  why: ErrorDetail,
): Promise<boolean> {
  const { job, message } = claim
  const crashes = job.crashes + (reason === 'crashed' ? 1 : 0)
  const losses = job.losses + (reason === 'lost' ? 1 : 0)
  if (crashes >= maxCrashes || losses >= maxLosses) return failJob(store, claim, why)
  const done = await fenced(store, async (tx) => {
    if (!(await store.messages.giveBack(tx, message))) throw new Superseded()
    await requeueRow(tx, job, { crashes, losses })
    return true
  })
  if (!done) return false
  logTransition(store, job, 'queued', { reason, crashes, losses, why: why.code })
  return true
}

/**
 * Put a running job whose dispatcher is known to be gone back at its place in the queue, or end it when that has happened
 * too often; false when it has moved on since it was read.
 */
export async function takeBackJob(store: JobStore, job: ClaimedRow): Promise<boolean> {
  const losses = job.losses + 1
  const poisonous = losses >= maxLosses
  const done = await fenced(store, async (tx) => {
    if (poisonous) await store.messages.cancel(tx, job.queue, job.id)
    else await store.messages.takeBack(tx, job.queue, job.id)
    if (poisonous) await endRow(tx, store, job, { state: 'failed', error: lostTooOften(losses) }, heldBy(job))
    else await requeueRow(tx, job, { crashes: job.crashes, losses })
    return true
  })
  if (!done) return false
  logTransition(store, job, poisonous ? 'failed' : 'queued', { reason: 'lost', losses })
  return true
}

async function requeueRow(
  tx: Transaction,
  job: ClaimedRow,
  counts: { crashes: number; losses: number },
): Promise<void> {
  const changed = await tx
    .update(jobs)
    .set({ state: 'queued', step: 0, ...counts })
    .where(heldBy(job))
    .returning({ told: notified({ type: 'state', jobId: job.id, state: 'queued', queue: job.queue }) })
  if (changed.length === 0) throw new Superseded()
}

/** End a queued or running job at once; whoever runs it hears of it and stops. False when it had ended before. */
export async function cancelJob(store: JobStore, job: ClaimedRow): Promise<boolean> {
  const ended = await fenced(store, async (tx) => {
    await store.messages.cancel(tx, job.queue, job.id)
    const outstanding = and(eq(jobs.id, job.id), inArray(jobs.state, ['queued', 'running']))
    return endRow(tx, store, job, { state: 'cancelled' }, outstanding)
  })
  if (!ended) return false
  store.notices.tellEnd(ended)
  logTransition(store, job, 'cancelled')
  return true
}

/** The ledger's name of a job. */
export function ledgerSubject(jobId: string): { readonly subjectKind: 'job'; readonly subjectId: string } {
  return { subjectKind: 'job', subjectId: jobId }
}

/** The log line of a transition that was committed, and its count. */
export function logTransition(
  { log, metrics, now }: Pick<JobStore, 'log' | 'metrics' | 'now'>,
  job: Pick<JobRow, 'id' | 'accountId' | 'attempt' | 'startedAt' | 'task'>,
  state: JobState,
  details: Readonly<Record<string, unknown>> = {},
): void {
  if (finalStates.includes(state)) {
    const runMs = job.startedAt && now().getTime() - job.startedAt.getTime()
    metrics.jobEnded(job.task?.sampler ?? null, state, runMs)
  }
  log.info({ job: job.id, account: job.accountId, attempt: job.attempt, state, ...details }, `job ${state}`)
}

/** The last words of a process may hold what PostgreSQL cannot store as text. */
function storable(error: ErrorDetail): ErrorDetail {
  return { ...error, message: error.message.toWellFormed().replaceAll('\0', '�') }
}

/** What a job fails with over which too many dispatchers were lost. */
export function lostTooOften(losses: number): ErrorDetail {
  return { code: 'engine_crashed', message: `the server ended ${losses} times while it worked on this request` }
}

/** Matches the row as long as its attempt is the newest and running. */
export function heldBy({ id, attempt }: Pick<JobRow, 'id' | 'attempt'>): SQL | undefined {
  return and(eq(jobs.id, id), eq(jobs.attempt, attempt), eq(jobs.state, 'running'))
}

/** What `change` answers, or null when it found that the job is somebody else's. */
async function fenced<Answer>(store: JobStore, change: (tx: Transaction) => Promise<Answer>): Promise<Answer | null> {
  try {
    return await store.database.db.transaction(change)
  } catch (error) {
    if (error instanceof Superseded) return null
    throw error
  }
}

function bytes(data: Uint8Array): SQL<Uint8Array> {
  return sql<Uint8Array>`${sql.param(data, previews.jpeg)}::bytea`
}
