// A job as a stream of events, for whoever wants to see it happen.
import { eq } from 'drizzle-orm'
import type { Logger } from '../../logger.ts'
import type { Database } from '../db/database.ts'
import { previews } from '../db/schema.ts'
import { notify, type JobNotices } from './job-notices.ts'
import { hasEnded, type Job } from './job.ts'

/** What happens to a job; `end` is the last event. */
export type JobEvent =
  | { readonly type: 'state'; readonly job: Job }
  | { readonly type: 'progress'; readonly step: number; readonly of: number }
  /** A small JPEG of the picture so far. */
  | { readonly type: 'preview'; readonly step: number; readonly jpeg: Uint8Array }
  | { readonly type: 'end'; readonly job: Job }

/** A dispatcher sends previews for this long after it heard that somebody watches, in milliseconds. */
export const watchedForMs = 30_000

/** What watching needs of the surroundings. */
export type WatchContext = { readonly database: Database; readonly log: Logger; readonly notices: JobNotices }

/** Events of a job until it ends or `signal` is aborted. What is not read in time is replaced by what is newer. */
export async function* watchJob(
  { database, log, notices }: WatchContext,
  look: () => Promise<Job>,
  jobId: string,
  signal: AbortSignal,
): AsyncGenerator<JobEvent, void> {
  const { db } = database
  const news = { state: true, progress: null as { step: number; of: number } | null, preview: false }
  let wake = Promise.withResolvers<void>()
  using _ear = notices.subscribe(jobId, {
    onNotice: (notice) => {
      if (notice.type === 'state') news.state = true
      else if (notice.type === 'progress') news.progress = { step: notice.step, of: notice.of }
      else if (notice.type === 'preview') news.preview = true
      wake.resolve()
    },
    onGap: () => {
      news.state = true
      wake.resolve()
    },
  })
  const onAbort = (): void => wake.resolve()
  signal.addEventListener('abort', onAbort)
  const tellWatched = (): Promise<void> => notify(db, { type: 'watched', jobId })
  const reminder = setInterval(() => {
    // The next one tries again; without it there are no previews for a while.
    tellWatched().catch((error: unknown) => log.warn({ job: jobId, err: error }, 'nobody heard that a job is watched'))
  }, watchedForMs / 2)
  try {
    await tellWatched()
    while (!signal.aborted) {
      wake = Promise.withResolvers<void>()
      if (news.state) {
        news.state = false
        const job = await look()
        if (hasEnded(job)) {
          yield { type: 'end', job }
          return
        }
        yield { type: 'state', job }
      }
      if (news.progress) {
        const progress = news.progress
        news.progress = null
        yield { type: 'progress', ...progress }
      }
      if (news.preview) {
        news.preview = false
        const [preview] = await db.select().from(previews).where(eq(previews.jobId, jobId))
        if (preview) yield { type: 'preview', step: preview.step, jpeg: preview.jpeg }
      }
      if (!news.state && !news.progress && !news.preview && !signal.aborted) await wake.promise
    }
  } finally {
    clearInterval(reminder)
    signal.removeEventListener('abort', onAbort)
  }
}
