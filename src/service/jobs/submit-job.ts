// Acceptance: an order is resolved, priced, its pictures stored, and then written down in one transaction with the limits
// checked, its price held and its message queued. Whatever fails leaves nothing behind.
import { and, eq, inArray, sql } from 'drizzle-orm'
import type { GenerateTask } from '#worker/protocol.ts'
import { AppError } from '../../errors.ts'
import { isForeignKeyViolation } from '../assets/asset-blobs.ts'
import { assetHashes, resolveAssets } from '../assets/resolve-assets.ts'
import type { Account } from '../accounts/account.ts'
import { refuse, type WordList } from '../accounts/word-list.ts'
import { hold } from '../billing/ledger.ts'
import { priceOf } from '../billing/price.ts'
import type { PriceList } from '../billing/price-list.ts'
import type { Transaction } from '../db/database.ts'
import { jobAssets, jobs } from '../db/schema.ts'
import { queueFor, type Deployment } from '../engines/deployment.ts'
import type { BlobStore } from '../files/blob-store.ts'
import type { GenerateOrder } from './generate-order.ts'
import { claimAccepted, firstClaim, NotItsTurn } from './claim-job.ts'
import { inputKey } from './job-files.ts'
import { notified } from './job-notices.ts'
import { ledgerSubject, logTransition, type JobRow, type JobStore } from './job-transitions.ts'
import { newJobId, queuePosition, type Job } from './job.ts'
import type { Reservation, Reserve } from './reservation.ts'
import { resolveGenerate } from './resolve-generate.ts'

/** What acceptance needs of the surroundings. */
export type SubmitContext = JobStore & {
  readonly blobs: BlobStore
  readonly deployment: Deployment
  readonly prices: PriceList
  readonly wordList: WordList | null
  /** Queued jobs of all accounts together. */
  readonly maxQueueLength: number
  /** Engine processes of this server, for jobs that need not wait. */
  readonly reserve?: Reserve
}

/** How an order came in. */
export type SubmitManner = {
  /** Which endpoint's shape the answer has. */
  readonly route: 'generate' | 'predict'
  readonly synchronous: boolean
  readonly idempotency: { readonly key: string; readonly bodyHash: Uint8Array } | null
}

/** Seconds after which a full queue is worth another try. */
const queueFullRetrySeconds = 10
/** Seconds after which an account that has too many jobs queued is worth another try. */
const tooManyRetrySeconds = 10

/** Rolls an acceptance back: somebody was faster with the same idempotency key. */
class Repeated extends Error {
  readonly jobId: string

  constructor(jobId: string) {
    super(`this request is ${jobId} already`)
    this.jobId = jobId
  }
}

/** Write down a job; the id instead, if the same idempotency key has made one before. */
export async function submitJob(
  context: SubmitContext,
  account: Account,
  order: GenerateOrder,
  manner: SubmitManner,
): Promise<Job | { readonly repeatedId: string }> {
  const repeatedId = await findRepeated(context.database.db, account.id, manner)
  if (repeatedId !== null) return { repeatedId }
  const { wordList, deployment, prices } = context
  const { prompt, prompt2, negativePrompt, negativePrompt2 } = order
  if (wordList) refuse(wordList, { prompt, prompt2, negativePrompt, negativePrompt2 })
  const { task, inputs, price, notApplied } = resolveGenerate(order, {
    assets: await resolveAssets(context.database.db, account, order),
    refiner: deployment.refiner !== null,
    previews: !manner.synchronous,
  })
  const id = newJobId()
  const row = {
    id,
    accountId: account.id,
    state: 'queued' as const,
    route: manner.route,
    synchronous: manner.synchronous,
    queue: queueFor(deployment, task),
    task,
    logPrompt: order.logPrompt,
    notApplied,
    images: task.seeds.length,
    priceMicros: priceOf(prices, price),
    idempotencyKey: manner.idempotency?.key ?? null,
    bodyHash: manner.idempotency?.bodyHash ?? null,
    steps: task.seeds.length * task.numInferenceSteps,
    createdAt: context.now(),
  }
  const keys = [...inputs.keys()].map((hash) => inputKey(id, hash))
  try {
    for (const [hash, bytes] of inputs) await context.blobs.put(inputKey(id, hash), bytes)
    return await acceptAndStart(context, account, row, manner)
  } catch (error) {
    await removeUnlessAccepted(context, id, keys, error)
    if (error instanceof Repeated) return { repeatedId: error.jobId }
    if (isForeignKeyViolation(error))
      throw new AppError('not_found', 'an asset of the request was deleted in this moment', { cause: error })
    throw error
  }
}

/** A connection can break after the commit; then the job is there, and its inputs must stay. */
async function removeUnlessAccepted(
  { blobs, database, log }: SubmitContext,
  id: string,
  keys: readonly string[],
  error: unknown,
): Promise<void> {
  if (keys.length === 0) return
  try {
    const found = await database.db.select({ id: jobs.id }).from(jobs).where(eq(jobs.id, id))
    if (found.length === 0) await blobs.delete(keys)
  } catch (failure) {
    // What is left here is swept later; whoever asked hears of the first error.
    log.warn({ job: id, err: failure, after: String(error) }, 'inputs of a refused job were not removed')
  }
}

/** What the row of a job has by itself as long as nobody has taken it. */
const untaken = {
  attempt: 0,
  crashes: 0,
  losses: 0,
  step: 0,
  result: null,
  error: null,
  startedAt: null,
  endedAt: null,
  expiresAt: null,
} as const satisfies Partial<JobRow>

/** What is written down of a job, but for its turn. */
type NewRow = Omit<JobRow, 'turn' | keyof typeof untaken> & { readonly task: GenerateTask }

/** Accept the job, and where a process is free and nobody waits, begin with it at once. */
async function acceptAndStart(
  context: SubmitContext,
  account: Account,
  row: NewRow,
  manner: SubmitManner,
): Promise<Job> {
  const reservation = account.maxRunningJobs === null ? (context.reserve?.(row.queue) ?? null) : null
  const accepted = reservation && (await acceptStarting(context, account, row, manner, reservation))
  if (accepted) return accepted
  const job = await context.database.db.transaction(async (tx) => {
    const { job } = await accept(tx, context, account, row, manner, 'always')
    await enqueue(tx, context, account, row, job)
    return job
  })
  tellQueued(context, row, job)
  return job
}

/**
 * Accept the job and, where nobody waits, set it running in the same transaction. Its process begins as soon as it is known
 * to pass the limits and the balance: at once where the account has none. Null, and nothing has happened, where it is not
 * its turn after all.
 */
async function acceptStarting(
  context: SubmitContext,
  account: Account,
  row: NewRow,
  manner: SubmitManner,
  reservation: Reservation,
): Promise<Job | null> {
  const outcome = Promise.withResolvers<boolean>()
  const early = firstClaim(context, { ...row, ...untaken })
  const atOnce = !account.prepaid && account.maxQueuedJobs === null && context.maxQueueLength > 0
  if (atOnce) reservation.start(early, outcome.promise)
  const written = context.database.db.transaction(async (tx) => {
    const { job, first } = await accept(tx, context, account, row, manner, 'unless first')
    if (atOnce && !first) throw new NotItsTurn()
    const claim = first ? early : null
    if (claim && !atOnce) reservation.start(claim, outcome.promise)
    await enqueue(tx, context, account, row, job)
    if (claim) await claimAccepted(tx, context, claim)
    return { job, claim }
  })
  const accepted = await written.catch(async (error: unknown) => {
    outcome.resolve(false)
    await reservation.release()
    if (error instanceof NotItsTurn) return null
    throw error
  })
  if (!accepted) return null
  outcome.resolve(true)
  const { job, claim } = accepted
  tellQueued(context, row, job)
  if (!claim) {
    await reservation.release()
    return job
  }
  logTransition(context, claim.job, 'running')
  const { attempt, startedAt, state } = claim.job
  return { ...job, attempt, startedAt, state, queuePosition: null }
}

function tellQueued(context: SubmitContext, { task }: NewRow, job: Job): void {
  logTransition(context, { ...job, task }, 'queued', { queue: job.queue })
}

/** Write down the job and hold its price. `tellsQueued`: whether dispatchers hear of it also when nothing else is queued. */
async function accept(
  tx: Transaction,
  context: SubmitContext,
  account: Account,
  row: NewRow,
  manner: SubmitManner,
  tellsQueued: 'always' | 'unless first',
): Promise<{ readonly job: Job; readonly first: boolean }> {
  // From here on the account is locked: its requests pass one after the other, so that counts and balance hold.
  await hold(tx, { accountId: account.id, ...ledgerSubject(row.id), amountMicros: row.priceMicros })
  const repeatedId = await findRepeated(tx, account.id, manner)
  if (repeatedId !== null) throw new Repeated(repeatedId)
  const { maxQueuedJobs } = account
  const notice = notified({ type: 'state', jobId: row.id, state: 'queued', queue: row.queue })
  const told = tellsQueued === 'always' ? notice : sql`case when ${counts.queued} > 0 then ${notice} end`
  const before = outstandingBefore(tx, account.id)
  const [{ turn, place, queued, ownQueued }] = await tx
    .with(before)
    .insert(jobs)
    .values({ ...row, turn: sql`(select turn from outstanding)` })
    .returning({ turn: jobs.turn, place: queuePosition, told, ...counts })
  // Where a limit was reached before, the transaction takes the row back.
  if (maxQueuedJobs !== null && ownQueued >= maxQueuedJobs)
    throw new AppError(
      'too_many_jobs',
      `the account has ${ownQueued} requests queued, as many as it may have; wait until one has begun`,
      { retryAfterSeconds: tooManyRetrySeconds },
    )
  if (queued >= context.maxQueueLength)
    throw new AppError('queue_full', `the queue is full: ${queued} requests wait`, {
      retryAfterSeconds: queueFullRetrySeconds,
    })
  const { task: _task, bodyHash: _bodyHash, ...shown } = row
  return { job: { ...shown, ...untaken, turn, queuePosition: place }, first: queued === 0 }
}

/** What an accepted job's row is not without. */
async function enqueue(
  tx: Transaction,
  { messages }: SubmitContext,
  account: Account,
  { id, queue, task }: NewRow,
  { turn }: Job,
): Promise<void> {
  // As long as these rows are there, the files are.
  const files = assetHashes(task).map((hash) => ({ jobId: id, hash }))
  if (files.length > 0) await tx.insert(jobAssets).values(files)
  await messages.send(tx, queue, id, account.id, turn)
}

/**
 * How much waits, and the turn of the account's next job: one after its own last one, or that of the job which is served
 * next, so that accounts take turns (start-time fair queueing, Goyal, Vin and Cheng 1996, with jobs of one size).
 */
function outstandingBefore(tx: Transaction, accountId: string) {
  const isQueued = sql`${jobs.state} = 'queued'`
  const isOwn = sql`${jobs.accountId} = ${accountId}`
  return tx.$with('outstanding').as(
    tx
      .select({
        queued: sql<number>`(count(*) filter (where ${isQueued}))::int`.as('queued'),
        ownQueued: sql<number>`(count(*) filter (where ${isQueued} and ${isOwn}))::int`.as('own_queued'),
        turn: sql<number>`greatest(
          1 + max(${jobs.turn}) filter (where ${isOwn}),
          coalesce(min(${jobs.turn}) filter (where ${isQueued}), max(${jobs.turn})),
          0)::int`.as('turn'),
      })
      .from(jobs)
      .where(inArray(jobs.state, ['queued', 'running'])),
  )
}

const counts = {
  queued: sql<number>`(select queued from outstanding)`,
  ownQueued: sql<number>`(select own_queued from outstanding)`,
}

async function findRepeated(
  db: Pick<Transaction, 'select'>,
  accountId: string,
  { idempotency }: SubmitManner,
): Promise<string | null> {
  if (!idempotency) return null
  const [job] = await db
    .select({ id: jobs.id, bodyHash: jobs.bodyHash })
    .from(jobs)
    .where(and(eq(jobs.accountId, accountId), eq(jobs.idempotencyKey, idempotency.key)))
  if (!job) return null
  if (!job.bodyHash || !Buffer.from(job.bodyHash).equals(idempotency.bodyHash))
    throw new AppError('idempotency_conflict', 'Idempotency-Key: was used before with another body')
  return job.id
}
