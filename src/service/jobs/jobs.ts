// The office's counter: what the HTTP room asks of jobs. Everything is asked in the name of an account; another one's
// job answers like one that does not exist.
import { and, count, desc, eq } from 'drizzle-orm'
import { AppError } from '../../errors.ts'
import type { Account } from '../accounts/account.ts'
import { jobs, type JobState } from '../db/schema.ts'
import { queuesOf } from '../engines/deployment.ts'
import type { GenerateOrder } from './generate-order.ts'
import { inputKeys } from './job-files.ts'
import type { JobNotices } from './job-notices.ts'
import { cancelJob } from './job-transitions.ts'
import { hasEnded, jobColumns, queuePosition, type Job } from './job.ts'
import { picturesAtHand } from './pictures-at-hand.ts'
import { SentResults } from './sent-results.ts'
import { submitJob, type SubmitContext, type SubmitManner } from './submit-job.ts'
import { watchJob, type JobEvent } from './watch-job.ts'

/** What can be done with jobs; disposal removes what was sent. */
export type Jobs = AsyncDisposable & {
  /**
   * Accept an order: the job, or the one that the same idempotency key made before. Throws `not_found` for references,
   * `bad_argument`, `prompt_refused`, `no_credit`, `too_many_jobs`, `queue_full`, `idempotency_conflict`.
   */
  submit(account: Account, order: GenerateOrder, manner: SubmitManner): Promise<Job>
  /** Resolves when the job has ended, in whichever process. Rejects with `not_found`, or the signal's reason. */
  ended(jobId: string, signal?: AbortSignal): Promise<Job>
  get(account: Account, jobId: string): Promise<Job | null>
  /** The account's jobs, the newest first. */
  list(account: Account, page: JobPage): Promise<{ readonly jobs: readonly Job[]; readonly total: number }>
  /** End a queued or running job without charge; one that has ended stays as it is. Throws `not_found`. */
  cancel(account: Account, jobId: string): Promise<Job>
  /** The pictures of a job that has succeeded, as encoded bytes. Throws `gone` when they are not kept any more. */
  images(job: Job): Promise<Uint8Array[]>
  /**
   * Remove the pictures of a synchronous job that were sent; resolves when that is done, a little later. Those with an
   * idempotency key stay for a repetition.
   */
  discard(job: Job): Promise<void>
  /** State, progress and previews as they come, then the end. Throws `not_found`. */
  watch(jobId: string, signal: AbortSignal): AsyncIterable<JobEvent>
}

export type JobPage = { readonly limit: number; readonly offset: number; readonly state?: JobState | undefined }

/** What {@link openJobs} needs of the surroundings. */
export type JobsContext = SubmitContext

/** The jobs of one database; makes the queues of the deployment. */
export async function openJobs(context: JobsContext): Promise<Jobs> {
  const { blobs, database, deployment, messages, notices } = context
  for (const queue of queuesOf(deployment).keys()) await messages.create(queue)
  const { db } = database
  const sent = new SentResults(database, blobs)

  async function find(jobId: string): Promise<Job | null> {
    const [job] = await db
      .select({ ...jobColumns, queuePosition })
      .from(jobs)
      .where(eq(jobs.id, jobId))
    return job ?? null
  }

  async function need(jobId: string): Promise<Job> {
    return (await find(jobId)) ?? notFound(jobId)
  }

  return {
    async submit(account, order, manner) {
      const accepted = await submitJob(context, account, order, manner)
      return 'repeatedId' in accepted ? need(accepted.repeatedId) : accepted
    },
    ended: (jobId, signal) => waitForEnd(notices, () => need(jobId), jobId, signal),
    async get(account, jobId) {
      const job = await find(jobId)
      return job?.accountId === account.id ? job : null
    },
    async list(account, { limit, offset, state }) {
      const wanted = and(eq(jobs.accountId, account.id), state && eq(jobs.state, state))
      const [{ total }] = await db.select({ total: count() }).from(jobs).where(wanted)
      const page = await db
        .select({ ...jobColumns, queuePosition })
        .from(jobs)
        .where(wanted)
        .orderBy(desc(jobs.createdAt), desc(jobs.id))
        .limit(limit)
        .offset(offset)
      return { jobs: page, total }
    },
    async cancel(account, jobId) {
      const [row] = await db
        .select()
        .from(jobs)
        .where(and(eq(jobs.id, jobId), eq(jobs.accountId, account.id)))
      if (!row) return notFound(jobId)
      if (!hasEnded(row) && (await cancelJob(context, row)) && row.task) await blobs.delete(inputKeys(jobId, row.task))
      return need(jobId)
    },
    async images(job) {
      if (!job.result) throw gone(job)
      const atHand = picturesAtHand(job.result)
      if (atHand) return [...atHand]
      const pictures = await Promise.all(job.result.images.map(({ key }) => blobs.get(key)))
      return pictures.map((bytes) => {
        if (!bytes) throw gone(job)
        return bytes
      })
    },
    async discard(job) {
      if (!job.synchronous || !job.result || job.idempotencyKey !== null) return
      await sent.remove(job)
    },
    watch: (jobId, signal) => watchJob(context, () => need(jobId), jobId, signal),
    [Symbol.asyncDispose]: () => sent[Symbol.asyncDispose](),
  }
}

async function waitForEnd(
  notices: JobNotices,
  look: () => Promise<Job>,
  jobId: string,
  signal?: AbortSignal,
): Promise<Job> {
  signal?.throwIfAborted()
  const { promise, resolve, reject } = Promise.withResolvers<Job>()
  let ended = false
  const check = async (): Promise<void> => {
    try {
      if (ended) return
      const job = await look()
      if (hasEnded(job)) resolve(job)
    } catch (error) {
      reject(error)
    }
  }
  const onAbort = (): void => reject(signal?.reason)
  signal?.addEventListener('abort', onAbort, { once: true })
  using _ear = notices.subscribe(jobId, {
    // A job that was ended by this process follows its notice at once.
    onNotice: (notice) => void (notice.type === 'state' && hasEnded(notice) && setImmediate(() => void check())),
    onEnd: (job) => {
      ended = true
      resolve(job)
    },
    onGap: () => void check(),
  })
  // It may have ended before anybody listened.
  if (!notices.isOutstanding(jobId)) void check()
  try {
    return await promise
  } finally {
    signal?.removeEventListener('abort', onAbort)
  }
}

function notFound(jobId: string): never {
  throw new AppError('not_found', `request ${jobId}: there is none`)
}

function gone({ id }: Job): AppError {
  return new AppError('gone', `request ${id}: its pictures are not kept any more`)
}
