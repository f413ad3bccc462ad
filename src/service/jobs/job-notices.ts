// What processes tell each other about jobs over LISTEN/NOTIFY: that there is work, that a state changed, how far a
// job is, and that somebody watches. A notice is a hint; what is true stands in the tables.
import { sql, type SQL } from 'drizzle-orm'
import type { Database, Drizzle, Transaction } from '../db/database.ts'
import type { JobState } from '../db/schema.ts'
import type { Job } from './job.ts'

/** One notice; `jobId` names the job. */
export type JobNotice =
  | { readonly type: 'state'; readonly jobId: string; readonly state: JobState; readonly queue: string }
  | { readonly type: 'progress'; readonly jobId: string; readonly step: number; readonly of: number }
  | { readonly type: 'preview'; readonly jobId: string; readonly step: number }
  /** Somebody wants previews of the job for the next while. */
  | { readonly type: 'watched'; readonly jobId: string }

type Listener = {
  readonly onNotice: (notice: JobNotice) => void
  /** This process has ended the job; its notice comes too. */
  readonly onEnd?: (job: Job) => void
  /** Notices may have been missed: look into the tables. */
  readonly onGap: () => void
}

const channel = 'sepia_jobs'
const rememberedJobs = 10_000

/** Send a notice; inside a transaction it leaves with the commit. */
export async function notify(db: Drizzle | Transaction, notice: JobNotice): Promise<void> {
  await db.execute(sql`select ${notified(notice)}`)
}

/** A column for `returning` that sends the notice when a row was changed. */
export function notified(notice: JobNotice): SQL {
  return sql`pg_notify(${channel}, ${JSON.stringify(notice)})`
}

/** This process's ear: one subscription, shared by everybody who waits for a job. */
export class JobNotices implements AsyncDisposable {
  readonly #byJob = new Map<string, Set<Listener>>()
  readonly #all = new Set<Listener>()
  /** Jobs whose latest notice said that they have not ended; the oldest is forgotten first. */
  readonly #outstanding = new Set<string>()
  #stop: () => Promise<void> = async () => {}

  static async open(database: Database): Promise<JobNotices> {
    const notices = new JobNotices()
    notices.#stop = await database.listen(
      channel,
      (payload) => notices.#deliver(JSON.parse(payload) as JobNotice),
      () => notices.#tellGap(),
    )
    return notices
  }

  /** Hear about one job. */
  subscribe(jobId: string, listener: Listener): Disposable {
    const listeners = this.#byJob.get(jobId) ?? new Set()
    this.#byJob.set(jobId, listeners.add(listener))
    return {
      [Symbol.dispose]: () => {
        listeners.delete(listener)
        if (listeners.size === 0) this.#byJob.delete(jobId)
      },
    }
  }

  /** Hear about all jobs. */
  subscribeAll(listener: Listener): Disposable {
    this.#all.add(listener)
    return { [Symbol.dispose]: () => void this.#all.delete(listener) }
  }

  /** Tell those who listen in this process how the job has ended. */
  tellEnd(job: Job): void {
    for (const { onEnd } of this.#byJob.get(job.id) ?? []) onEnd?.(job)
  }

  /** Whether the latest that was heard of the job is that it waits or runs; its end is then still to be heard. */
  isOutstanding(jobId: string): boolean {
    return this.#outstanding.has(jobId)
  }

  #deliver(notice: JobNotice): void {
    if (notice.type === 'state') this.#remember(notice)
    for (const listener of [...this.#all, ...(this.#byJob.get(notice.jobId) ?? [])]) listener.onNotice(notice)
  }

  #remember({ jobId, state }: JobNotice & { readonly type: 'state' }): void {
    if (state !== 'queued' && state !== 'running') {
      this.#outstanding.delete(jobId)
      return
    }
    this.#outstanding.add(jobId)
    if (this.#outstanding.size <= rememberedJobs) return
    const [oldest] = this.#outstanding
    this.#outstanding.delete(oldest)
  }

  #tellGap(): void {
    this.#outstanding.clear()
    for (const listeners of [this.#all, ...this.#byJob.values()]) for (const { onGap } of listeners) onGap()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stop()
  }
}
