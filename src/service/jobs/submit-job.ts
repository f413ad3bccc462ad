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
import { inputKey } from './job-files.ts'
import { notified } from './job-notices.ts'
import { ledgerSubject, logTransition, type JobRow, type JobStore } from './job-transitions.ts'
import { jobColumns, newJobId, queuePosition, type Job } from './job.ts'
import { resolveGenerate } from './resolve-generate.ts'

/** What acceptance needs of the surroundings. */
export type SubmitContext = JobStore & {
  readonly blobs: BlobStore
  readonly deployment: Deployment
  readonly prices: PriceList
  readonly wordList: WordList | null
  /** Queued jobs of all accounts together. */
  readonly maxQueueLength: number
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
    const job = await context.database.db.transaction((tx) => accept(tx, context, account, row, manner))
    logTransition(context, { ...job, task }, 'queued', { queue: job.queue })
    return job
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

async function accept(
  tx: Transaction,
  context: SubmitContext,
  account: Account,
  row: Omit<typeof jobs.$inferInsert, 'turn'> & Pick<JobRow, 'id' | 'queue' | 'priceMicros'> & { task: GenerateTask },
  manner: SubmitManner,
): Promise<Job> {
  // From here on the account is locked: its requests pass one after the other, so that counts and balance hold.
  await hold(tx, { accountId: account.id, ...ledgerSubject(row.id), amountMicros: row.priceMicros })
  const repeatedId = await findRepeated(tx, account.id, manner)
  if (repeatedId !== null) throw new Repeated(repeatedId)
  const { maxQueuedJobs } = account
  const { queued, ownQueued, turn } = await outstanding(tx, account.id)
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
  const told = notified({ type: 'state', jobId: row.id, state: 'queued', queue: row.queue })
  const [{ told: _, ...job }] = await tx
    .insert(jobs)
    .values({ ...row, turn })
    .returning({ ...jobColumns, queuePosition, told })
  // As long as these rows are there, the files are.
  const files = assetHashes(row.task).map((hash) => ({ jobId: row.id, hash }))
  if (files.length > 0) await tx.insert(jobAssets).values(files)
  await context.messages.send(tx, row.queue, row.id, account.id, turn)
  return job
}

/**
 * How much waits, and the turn of the account's next job: one after its own last one, or that of the job which is served
 * next, so that accounts take turns (start-time fair queueing, Goyal, Vin and Cheng 1996, with jobs of one size).
 */
async function outstanding(
  tx: Transaction,
  accountId: string,
): Promise<{ queued: number; ownQueued: number; turn: number }> {
  const isQueued = sql`${jobs.state} = 'queued'`
  const isOwn = sql`${jobs.accountId} = ${accountId}`
  const [row] = await tx
    .select({
      queued: sql<number>`(count(*) filter (where ${isQueued}))::int`,
      ownQueued: sql<number>`(count(*) filter (where ${isQueued} and ${isOwn}))::int`,
      turn: sql<number>`greatest(
        1 + max(${jobs.turn}) filter (where ${isOwn}),
        coalesce(min(${jobs.turn}) filter (where ${isQueued}), max(${jobs.turn})),
        0)::int`,
    })
    .from(jobs)
    .where(inArray(jobs.state, ['queued', 'running']))
  return row
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
