// Inspections one after the other, in a process that has engines: taken from their queue, carried out in an engine
// process of their own, and written down. An inspection whose process has gone is another's; after some, it is an error.
import { eq } from 'drizzle-orm'
import { AppError } from '../../errors.ts'
import { assets } from '../db/schema.ts'
import { leaseSeconds, type Message, type MessageQueue } from '../jobs/message-queue.ts'
import type { Asset } from './asset.ts'
import type { AssetFiles } from './asset-files.ts'
import type { AssetNotices } from './asset-notices.ts'
import { endInspection, type EndContext, type Verdict } from './end-inspection.ts'
import { inspectFile, type InspectContext } from './inspect-file.ts'

/** What an inspector needs of the surroundings. */
export type InspectorContext = EndContext &
  InspectContext & {
    readonly messages: MessageQueue
    readonly assetNotices: AssetNotices
    readonly assetFiles: AssetFiles
    readonly queue: string
  }

/** Processes that may be lost over an asset, or fail to look into it, before that is its end. */
const maxAttempts = 3
const beatMs = (leaseSeconds * 1000) / 3

/** Takes inspections until it is disposed. */
export class AssetInspector implements AsyncDisposable {
  readonly #context: InspectorContext
  readonly #stopping = new AbortController()
  readonly #ear: Disposable
  readonly #heart: NodeJS.Timeout
  #current: { readonly message: Message; readonly stop: AbortController } | null = null
  #hungry = false
  #working: Promise<void> | null = null
  #renewing: Promise<void> | null = null

  /** Make the queue and begin to take inspections. */
  static async start(context: InspectorContext): Promise<AssetInspector> {
    await context.messages.create(context.queue)
    const inspector = new AssetInspector(context)
    if (context.database.kind === 'pglite') await inspector.#takeBack()
    inspector.wake()
    return inspector
  }

  private constructor(context: InspectorContext) {
    this.#context = context
    this.#ear = context.assetNotices.subscribe({
      onNotice: ({ status }) => status === 'uploaded' && this.wake(),
      onGap: () => this.wake(),
    })
    this.#heart = setInterval(() => this.#beat(), beatMs)
  }

  /** Look for work. */
  wake(): void {
    this.#hungry = true
    if (this.#stopping.signal.aborted) return
    this.#working ??= this.#work().finally(() => {
      this.#working = null
      if (this.#hungry) this.wake()
    })
  }

  async #work(): Promise<void> {
    const { log } = this.#context
    while (this.#hungry && !this.#stopping.signal.aborted) {
      this.#hungry = false
      try {
        while (!this.#stopping.signal.aborted && (await this.#inspectNext())) {
          // The next one.
        }
      } catch (error) {
        // The next beat tries again.
        log.error({ err: error }, 'an inspection could not be carried out')
      }
    }
  }

  /** Carry out the next inspection; false where none waits. */
  async #inspectNext(): Promise<boolean> {
    const { database, messages, queue } = this.#context
    const taken = await database.db.transaction(async (tx) => {
      const message = await messages.take(tx, queue, [])
      if (!message) return null
      const [asset] = await tx.select().from(assets).where(eq(assets.id, message.jobId))
      if (asset?.status === 'uploaded') return { message, asset }
      await messages.complete(tx, message)
      return { message, asset: null }
    })
    if (!taken) return false
    const { message, asset } = taken
    if (!asset) return true
    const stop = new AbortController()
    this.#current = { message, stop }
    try {
      const signal = AbortSignal.any([stop.signal, this.#stopping.signal])
      const verdict = await this.#verdict(asset, message, signal)
      await endInspection(this.#context, asset, verdict, (tx) => messages.complete(tx, message))
    } catch (error) {
      await database.db.transaction((tx) => messages.giveBack(tx, message))
      // Another process may survive what this one died of; everything else can wait for the next beat.
      const died = error instanceof AppError && error.code === 'engine_crashed'
      if (!died && !this.#stopping.signal.aborted) throw error
    } finally {
      this.#current = null
    }
    return true
  }

  async #verdict(asset: Asset, { attempt }: Message, signal: AbortSignal): Promise<Verdict> {
    const { assetFiles, log } = this.#context
    const { uploadHash: hash, uploadKey: key, sizeBytes } = asset
    if (hash === null || key === null) throw new AppError('internal', `asset ${asset.id} has no upload`)
    const tried = attempt.retryCount
    if (tried >= maxAttempts)
      return { status: 'error', reason: 'the server could not look into the file; delete the asset and send it again' }
    if (tried > 0) log.warn({ asset: asset.id, tried }, 'an inspection is repeated')
    const place = await assetFiles.placeOf({ hash, key })
    return inspectFile(this.#context, asset, { hash, key, sizeBytes }, place, signal)
  }

  /** The data folder belongs to this process, so whoever inspected something before is gone. */
  async #takeBack(): Promise<void> {
    const { database, messages, queue } = this.#context
    const left = await database.db.select().from(assets).where(eq(assets.status, 'uploaded'))
    for (const { id, accountId } of left) {
      const state = await messages.stateOf(queue, id)
      if (state === 'leased') await database.db.transaction((tx) => messages.takeBack(tx, queue, id))
      // It was uploaded while another model was served.
      if (state === 'gone') await database.db.transaction((tx) => messages.send(tx, queue, id, accountId, 0))
    }
  }

  #beat(): void {
    this.#renewing ??= this.#renew().finally(() => (this.#renewing = null))
    this.wake()
  }

  /** Renew the lease, and stop where it is somebody else's by now. */
  async #renew(): Promise<void> {
    const current = this.#current
    if (!current) return
    const { log, messages } = this.#context
    try {
      const held = await messages.touch([current.message])
      if (!held.has(current.message.jobId)) current.stop.abort()
    } catch (error) {
      log.error({ err: error }, 'the lease of an inspection could not be renewed')
    }
  }

  /** Give back at once what is under way, and take nothing more. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort()
    clearInterval(this.#heart)
    this.#ear[Symbol.dispose]()
    await this.#working
    await this.#renewing
  }
}
