// Results of synchronous jobs that were sent. They are removed a little later and several at once, so that the next request
// of the same client does not wait for it.
import { inArray } from 'drizzle-orm'
import type { Database } from '../db/database.ts'
import { jobs } from '../db/schema.ts'
import type { BlobStore } from '../files/blob-store.ts'
import type { Job } from './job.ts'

const delayMs = 100

type Sent = { readonly jobId: string; readonly keys: readonly string[] }

/** Removes results in batches; disposal removes what waits. */
export class SentResults implements AsyncDisposable {
  readonly #database: Database
  readonly #blobs: BlobStore
  #waiting: Sent[] = []
  #removal: Promise<void> | null = null
  #hurry: () => void = () => {}

  constructor(database: Database, blobs: BlobStore) {
    this.#database = database
    this.#blobs = blobs
  }

  /** Resolves when the job's result is removed; rejects when it cannot be, and then it expires. */
  remove({ id, result }: Job): Promise<void> {
    this.#waiting.push({ jobId: id, keys: result?.images.map(({ key }) => key) ?? [] })
    this.#removal ??= this.#removeSoon()
    return this.#removal
  }

  async #removeSoon(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#hurry = resolve
    const timer = setTimeout(resolve, delayMs)
    await promise
    clearTimeout(timer)
    const sent = this.#waiting
    this.#waiting = []
    this.#removal = null
    const ids = sent.map(({ jobId }) => jobId)
    await this.#database.db.update(jobs).set({ result: null, expiresAt: null }).where(inArray(jobs.id, ids))
    await this.#blobs.delete(sent.flatMap(({ keys }) => keys))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const removal = this.#removal
    this.#hurry()
    // Whoever asked hears of a failure.
    await Promise.allSettled([removal])
  }
}
