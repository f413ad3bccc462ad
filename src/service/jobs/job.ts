// What a job is: its row without the order itself, and where it stands in the queue.
import { getTableColumns, sql, type SQL } from 'drizzle-orm'
import { typeid, TypeID } from 'typeid-js'
import { jobs, type JobState } from '../db/schema.ts'

type JobRow = typeof jobs.$inferSelect

/** One accepted request for pictures, as it stands. */
export type Job = Omit<JobRow, 'task' | 'bodyHash'> & {
  /** Jobs of the same queue that go first, plus one; null unless the job is queued. */
  readonly queuePosition: number | null
}

/** States in which nothing changes any more. */
export const finalStates: readonly JobState[] = ['succeeded', 'failed', 'cancelled']

/** Whether nothing about the job's outcome can change any more. */
export function hasEnded(job: Pick<JobRow, 'state'>): boolean {
  return finalStates.includes(job.state)
}

/** A new job's id: `req_` and 26 characters. */
export function newJobId(): string {
  return typeid('req').toString()
}

/** An id as pg-boss writes it. */
export function messageIdOf(id: string): string {
  return TypeID.fromString(id).toUUID()
}

/** The id out of pg-boss's spelling, of a job unless `prefix` says otherwise. */
export function jobIdOf(messageId: string, prefix: string = 'req'): string {
  return TypeID.fromUUID(prefix, messageId).toString()
}

const { task: _task, bodyHash: _bodyHash, ...shown } = getTableColumns(jobs)

/** Columns of a {@link Job}, without its place in the queue. */
export const jobColumns = shown

/**
 * The place in the queue, for a select from `jobs` or a returning; counted over the index of outstanding jobs. Spelled out,
 * because drizzle names columns in a returning without their table.
 */
export const queuePosition: SQL<number | null> = sql<number | null>`
  case when jobs.state = 'queued' then 1 + (
    select count(*)::int from jobs ahead
    where ahead.state = 'queued' and ahead.queue = jobs.queue
      and (ahead.turn, ahead.created_at, ahead.id) < (jobs.turn, jobs.created_at, jobs.id)
  ) end`
