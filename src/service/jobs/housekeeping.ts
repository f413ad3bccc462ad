// What is kept only for a while: pictures, prompts, idempotency keys, and files that no job refers to any more. All of it
// can be done by several processes at once, and again.
import { and, eq, inArray, isNotNull, lt, notExists, or, sql } from 'drizzle-orm'
import { alias } from 'drizzle-orm/pg-core'
import { tidyAssets } from '../assets/asset-housekeeping.ts'
import { closeLedger } from '../billing/ledger-closing.ts'
import { jobs, ledgerEntries } from '../db/schema.ts'
import type { BlobStore } from '../files/blob-store.ts'
import { jobFilesPrefix, inputKeys, jobOfKey } from './job-files.ts'
import type { JobStore } from './job-transitions.ts'
import { finalStates, hasEnded } from './job.ts'

/** What housekeeping needs of the surroundings. */
export type HousekeepingContext = Pick<JobStore, 'database' | 'log' | 'now'> & { readonly blobs: BlobStore }

/** How much was removed. */
export type Tidied = { readonly results: number; readonly prompts: number; readonly files: number }

const everyMs = 5 * 60 * 1000
/** A file without a job may belong to a request that is just being accepted, or to a picture that is just stored. */
const orphanGraceMs = 60 * 60 * 1000
const promptKeptMs = 15 * 24 * 60 * 60 * 1000
const idempotencyKeptMs = 24 * 60 * 60 * 1000
const batchSize = 200

/** Keep house now and every few minutes until disposal. */
export async function startHousekeeping(context: HousekeepingContext): Promise<AsyncDisposable> {
  // The data folder belongs to this process, which accepts nothing yet: there is no request to be graceful to.
  await keepHouse(context, context.database.kind === 'pglite' ? 0 : orphanGraceMs)
  let working: Promise<void> | null = null
  const timer = setInterval(() => {
    working ??= keepHouse(context, orphanGraceMs).finally(() => (working = null))
  }, everyMs)
  return {
    async [Symbol.asyncDispose]() {
      clearInterval(timer)
      await working
    },
  }
}

async function keepHouse(context: HousekeepingContext, graceMs: number): Promise<void> {
  const { log } = context
  try {
    const tidied = await tidy(context, graceMs)
    if (tidied.results + tidied.prompts + tidied.files > 0) log.info(tidied, 'kept house')
    await tidyAssets(context, new Date(context.now().getTime() - graceMs))
    await closeLedger(context.database.db)
    const open = await openHolds(context)
    if (open.length > 0) log.error({ jobs: open }, 'holds of jobs that have ended are open')
  } catch (error) {
    // The next round tries again.
    log.error({ err: error }, 'housekeeping failed')
  }
}

/** Remove what has expired, and files older than `graceMs` that no job refers to. */
export async function tidy(context: HousekeepingContext, graceMs: number): Promise<Tidied> {
  const results = await removeExpiredResults(context)
  const prompts = await forgetPrompts(context)
  const files = await sweepFiles(context, graceMs)
  return { results, prompts, files }
}

async function removeExpiredResults({ blobs, database, now }: HousekeepingContext): Promise<number> {
  const { db } = database
  let removed = 0
  for (;;) {
    const expired = await db
      .select({ id: jobs.id, result: jobs.result })
      .from(jobs)
      .where(and(lt(jobs.expiresAt, now()), isNotNull(jobs.result)))
      .limit(batchSize)
    if (expired.length === 0) return removed
    await blobs.delete(expired.flatMap(({ result }) => result?.images.map(({ key }) => key) ?? []))
    const ids = expired.map(({ id }) => id)
    await db.update(jobs).set({ result: null }).where(inArray(jobs.id, ids))
    removed += expired.length
  }
}

async function forgetPrompts({ database, now }: HousekeepingContext): Promise<number> {
  const ago = (ms: number): Date => new Date(now().getTime() - ms)
  const ended = inArray(jobs.state, finalStates)
  await database.db
    .update(jobs)
    .set({ idempotencyKey: null, bodyHash: null })
    .where(and(ended, isNotNull(jobs.idempotencyKey), lt(jobs.endedAt, ago(idempotencyKeptMs))))
  const forgotten = await database.db
    .update(jobs)
    .set({ task: null })
    .where(and(ended, isNotNull(jobs.task), lt(jobs.endedAt, ago(promptKeptMs))))
    .returning({ id: jobs.id })
  return forgotten.length
}

/** Files of jobs that there are not, that have ended, or that were made by an attempt that did not end them. */
async function sweepFiles(context: HousekeepingContext, graceMs: number): Promise<number> {
  const before = context.now().getTime() - graceMs
  let batch: string[] = []
  let swept = 0
  const flush = async (): Promise<void> => {
    const orphans = await orphansAmong(context, batch)
    if (orphans.length > 0) await context.blobs.delete(orphans)
    swept += orphans.length
    batch = []
  }
  for await (const { key, modifiedAt } of context.blobs.list(jobFilesPrefix)) {
    if (modifiedAt.getTime() > before) continue
    batch.push(key)
    if (batch.length === batchSize) await flush()
  }
  await flush()
  return swept
}

async function orphansAmong({ database }: HousekeepingContext, keys: readonly string[]): Promise<string[]> {
  const ids = [...new Set(keys.map(jobOfKey).filter((id) => id !== null))]
  if (keys.length === 0) return []
  const rows = await database.db
    .select({ id: jobs.id, state: jobs.state, result: jobs.result, task: jobs.task, attempt: jobs.attempt })
    .from(jobs)
    .where(inArray(jobs.id, ids))
  const byId = new Map(rows.map((row) => [row.id, row]))
  return keys.filter((key) => {
    const job = byId.get(jobOfKey(key) ?? '')
    if (!job) return true
    if (hasEnded(job)) return !job.result?.images.some((image) => image.key === key)
    const isInput = job.task !== null && inputKeys(job.id, job.task).includes(key)
    const isOfThisAttempt = key.includes(`/output/${job.attempt}-`)
    return !isInput && !(job.state === 'running' && isOfThisAttempt)
  })
}

/** Jobs that have ended without an end of their hold: there are none unless something is broken. */
export async function openHolds({ database }: Pick<HousekeepingContext, 'database'>): Promise<string[]> {
  const settled = alias(ledgerEntries, 'settled')
  const rows = await database.db
    .select({ id: jobs.id })
    .from(jobs)
    .innerJoin(
      ledgerEntries,
      and(eq(ledgerEntries.subjectKind, 'job'), eq(ledgerEntries.subjectId, jobs.id), eq(ledgerEntries.type, 'hold')),
    )
    .where(
      and(
        inArray(jobs.state, finalStates),
        notExists(
          database.db
            .select({ one: sql`1` })
            .from(settled)
            .where(
              and(
                eq(settled.subjectKind, 'job'),
                eq(settled.subjectId, jobs.id),
                or(eq(settled.type, 'capture'), eq(settled.type, 'release')),
              ),
            ),
        ),
      ),
    )
    .limit(batchSize)
  return rows.map(({ id }) => id)
}
