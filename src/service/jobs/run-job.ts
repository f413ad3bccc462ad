// One attempt at a job: its pictures fetched, its task run in an engine process, what came of it stored, and the end
// written down. Whatever fails is either the job's end or a reason to give it back.
import { mkdir, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { and, eq } from 'drizzle-orm'
import type { ContentHash, GenerateTask, Progress, TaskFiles } from '#worker/protocol.ts'
import { AppError, errorTable, type ErrorDetail } from '../../errors.ts'
import { blobKeys } from '../assets/asset-blobs.ts'
import type { AssetFiles } from '../assets/asset-files.ts'
import { assetHashes } from '../assets/resolve-assets.ts'
import { jobs, type JobResult } from '../db/schema.ts'
import type { QueueModels } from '../engines/deployment.ts'
import type { EngineLease } from '../engines/engine-pool.ts'
import type { BlobStore } from '../files/blob-store.ts'
import { inputKey, inputKeys, outputKey } from './job-files.ts'
import { leaseSeconds } from './message-queue.ts'
import { keepAtHand } from './pictures-at-hand.ts'
import {
  failJob,
  giveBackJob,
  maxCrashes,
  maxLosses,
  succeedJob,
  type Claim,
  type JobStore,
} from './job-transitions.ts'
import { ProgressNotes } from './progress-notes.ts'
import { picturesOf } from './resolve-generate.ts'

/** What an attempt needs of the surroundings. */
export type RunContext = JobStore & { readonly blobs: BlobStore; readonly assetFiles: AssetFiles }

/** Why an attempt is stopped: the job was cancelled or is somebody else's, or this dispatcher stops. */
export type StopReason = 'superseded' | 'returned'

/** One attempt, as its dispatcher sees it. */
export type Attempt = {
  readonly claim: Claim
  readonly models: QueueModels
  readonly lease: EngineLease
  /** Aborted with a {@link StopReason}. */
  readonly signal: AbortSignal
  /** Whether the claim stands in the database; until then nothing is written. */
  readonly accepted: Promise<boolean>
  /** Whether somebody watches the job now. */
  isWatched(): boolean
}

/** Run the job to its end, or give it back. Never rejects. */
export async function runJob(context: RunContext, attempt: Attempt): Promise<void> {
  const { claim, signal } = attempt
  const { id } = claim.job
  const outputs: string[] = []
  let kept = false
  let ended = true
  try {
    const result = await makePictures(context, attempt, outputs)
    if (await attempt.accepted) {
      kept = await persist(context, attempt, () => succeedJob(context, claim, result))
      // A connection can break after the commit, and then the repetition finds nothing to do.
      if (!kept) kept = await hasSucceeded(context, claim)
    } else ended = false
  } catch (error) {
    ended = await endWithError(context, attempt, error)
  }
  const left = [...(kept ? [] : outputs), ...(ended && claim.job.task ? inputKeys(id, claim.job.task) : [])]
  if (left.length === 0) return
  try {
    await context.blobs.delete(left)
  } catch (error) {
    context.log.warn({ job: id, err: error }, 'files of a job are left to the sweep')
  }
  context.log.debug({ job: id, kept, stopped: signal.aborted }, 'attempt is over')
}

/** Fetch, compute, store; the keys of what was stored are added to `outputs` before it is. */
async function makePictures(context: RunContext, attempt: Attempt, outputs: string[]): Promise<JobResult> {
  const { claim, lease, models, signal } = attempt
  const { job, message } = claim
  const { task } = job
  if (!task) throw new AppError('internal', `request ${job.id} has no task`)
  signal.throwIfAborted()
  const folder = path.join(lease.scratchDir, job.id)
  try {
    const pictures = await fetchInputs(context.blobs, job.id, task, folder)
    const files = taskFiles(models, task, await fetchAssets(context, job.id, task), pictures)
    await using notes = new ProgressNotes(context, claim, () => attempt.isWatched())
    const images: { key: string; seed: number }[] = []
    const made: Uint8Array[] = []
    const { timings, warnings } = await lease.generate(message.queue, task, files, {
      signal,
      onProgress: (progress: Progress) => notes.note(progress),
      async onImage(index, seed, bytes) {
        const key = outputKey(job.id, job.attempt, index)
        outputs.push(key)
        images.push({ key, seed })
        if (job.synchronous) made.push(bytes)
        await context.blobs.put(key, bytes)
      },
    })
    context.metrics.pictureMade(task, timings)
    const result = { images, encoding: task.imageEncoding, predictionTimeMs: timings.totalMs, warnings }
    if (job.synchronous) keepAtHand(result, made)
    return result
  } finally {
    if (picturesOf(task).length > 0) await rm(folder, { recursive: true, force: true })
  }
}

/** Where everything lies that the task names. */
function taskFiles(
  models: QueueModels,
  task: GenerateTask,
  assets: TaskFiles['assets'],
  pictures: TaskFiles['pictures'],
): TaskFiles {
  const refiner = task.refiner === null ? null : models.refiner
  if (task.checkpoint === null) return { checkpoint: models.checkpoint, refiner, pictures, assets }
  return { checkpoint: assets[task.checkpoint], servedModel: models.checkpoint, refiner, pictures, assets }
}

async function fetchAssets(
  { assetFiles, database }: RunContext,
  jobId: string,
  task: GenerateTask,
): Promise<TaskFiles['assets']> {
  const places: Record<ContentHash, string> = {}
  const hashes = assetHashes(task)
  const keys = await blobKeys(database.db, hashes)
  for (const hash of hashes) {
    const key = keys.get(hash)
    if (key === undefined)
      throw new AppError('internal', `request ${jobId}: the file ${hash} of an asset is not stored`)
    places[hash] = await assetFiles.placeOf({ hash, key })
  }
  return places
}

async function fetchInputs(
  blobs: BlobStore,
  jobId: string,
  task: GenerateTask,
  folder: string,
): Promise<Readonly<Record<ContentHash, string>>> {
  const places: Record<ContentHash, string> = {}
  const hashes = picturesOf(task)
  if (hashes.length > 0) await mkdir(folder, { recursive: true })
  for (const hash of hashes) {
    const bytes = await blobs.get(inputKey(jobId, hash))
    if (!bytes) throw new AppError('internal', `request ${jobId}: a picture that it starts from is not stored`)
    places[hash] = path.join(folder, hash)
    await writeFile(places[hash], bytes)
  }
  return places
}

/** Whether the job is over; false where it went back to the queue or is not ours to end. */
async function endWithError(context: RunContext, attempt: Attempt, error: unknown): Promise<boolean> {
  const { claim, signal } = attempt
  const { log } = context
  const { id } = claim.job
  if (!(await attempt.accepted)) return false
  if (signal.aborted && signal.reason === 'superseded') return false
  if (signal.aborted) {
    const why: ErrorDetail = { code: 'cancelled', message: 'the server stopped' }
    await persist(context, attempt, () => giveBackJob(context, claim, 'returned', why))
    return false
  }
  if (error instanceof AppError && isOfTheJob(error)) {
    const { code, message, field } = error
    if (code === 'internal') log.error({ job: id, err: error }, 'a job failed by a fault of the server')
    return persist(context, attempt, () => failJob(context, claim, { code, message, field }))
  }
  log.warn({ job: id, err: error }, 'an attempt at a job failed')
  if (error instanceof AppError && !isOfTheStore(error)) {
    const { code, message, field } = error
    await persist(context, attempt, () => giveBackJob(context, claim, 'crashed', { code, message, field }))
    return claim.job.crashes + 1 >= maxCrashes
  }
  const why: ErrorDetail = { code: 'storage_unavailable', message: 'the pictures of the request could not be stored' }
  await persist(context, attempt, () => giveBackJob(context, claim, 'lost', why))
  return claim.job.losses + 1 >= maxLosses
}

/** Errors that the same task will meet again anywhere; the others may go away with another process or machine. */
function isOfTheJob({ code }: AppError): boolean {
  return !errorTable[code].retryable
}

function isOfTheStore({ code }: AppError): boolean {
  return code === 'storage_unavailable' || code === 'database_unavailable'
}

/**
 * Write an end down, again and again while the database cannot be reached, until the lease has lapsed: by then the job is
 * another dispatcher's, or will be. False when it was not ours any more.
 */
async function persist({ log }: RunContext, { claim }: Attempt, write: () => Promise<boolean>): Promise<boolean> {
  const untilMs = performance.now() + leaseSeconds * 1000
  for (let retryMs = 50; ; retryMs = Math.min(2 * retryMs, 1000)) {
    try {
      return await write()
    } catch (error) {
      log.error({ job: claim.job.id, err: error }, 'the end of an attempt could not be written')
      if (performance.now() + retryMs > untilMs) return false
      await delay(retryMs)
    }
  }
}

async function hasSucceeded({ database, log }: RunContext, { job }: Claim): Promise<boolean> {
  try {
    const ours = and(eq(jobs.id, job.id), eq(jobs.attempt, job.attempt), eq(jobs.state, 'succeeded'))
    const found = await database.db.select({ id: jobs.id }).from(jobs).where(ours)
    return found.length === 1
  } catch (error) {
    // Files that nobody refers to are swept; files that are missing would be a loss.
    log.warn({ job: job.id, err: error }, 'whether a job has succeeded could not be read')
    return true
  }
}
