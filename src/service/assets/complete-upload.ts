// The end of an upload: its bytes are handed to an inspection, which some process with engines carries out.
import { and, eq, inArray, isNotNull } from 'drizzle-orm'
import { AppError } from '../../errors.ts'
import type { Logger } from '../../logger.ts'
import type { Database } from '../db/database.ts'
import { assets, type AssetStatus } from '../db/schema.ts'
import type { Deployment } from '../engines/deployment.ts'
import { inspectionQueues, type MessageQueue } from '../jobs/message-queue.ts'
import { openStatuses, type Asset } from './asset.ts'
import { assetNotified, type AssetNotices } from './asset-notices.ts'

/** What completing needs of the surroundings. */
export type CompleteContext = {
  readonly database: Database
  readonly messages: MessageQueue
  readonly assetNotices: AssetNotices
  readonly deployment: Deployment
  readonly log: Logger
}

/** The queue of a deployment's inspections: an upload is held against the model that is served. */
export function inspectionQueue({ model }: Pick<Deployment, 'model'>): string {
  return `${inspectionQueues}${model.hash.slice(0, 16)}`
}

/** Statuses in which an inspection has ended. */
const inspected: ReadonlySet<AssetStatus> = new Set(['ready', 'rejected', 'error', 'deleted'])

/** Hand the upload of an asset to its inspection; a second time changes nothing. Throws `bad_argument` where nothing was sent. */
export async function completeUpload(context: CompleteContext, asset: Asset): Promise<void> {
  const { database, deployment, log, messages } = context
  const done = await database.db.transaction(async (tx) => {
    const changed = await tx
      .update(assets)
      .set({ status: 'uploaded', expiresAt: null })
      .where(and(eq(assets.id, asset.id), inArray(assets.status, [...openStatuses]), isNotNull(assets.uploadKey)))
      .returning({ told: assetNotified({ assetId: asset.id, status: 'uploaded' }) })
    if (changed.length === 0) return false
    await messages.send(tx, inspectionQueue(deployment), asset.id, asset.accountId, 0)
    return true
  })
  if (done) {
    log.info({ asset: asset.id, account: asset.accountId }, 'asset uploaded')
    return
  }
  const [now] = await database.db.select({ status: assets.status }).from(assets).where(eq(assets.id, asset.id))
  if (!now || openStatuses.includes(now.status))
    throw new AppError('bad_argument', 'the asset has no file yet: send it first, then complete the upload', {
      field: 'id',
    })
}

/** Wait until the asset was inspected, in whichever process, but no longer than `timeoutMs` or until `signal`. */
export async function waitForInspection(
  { assetNotices, database }: Pick<CompleteContext, 'assetNotices' | 'database'>,
  assetId: string,
  timeoutMs: number,
  signal?: AbortSignal,
): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  const look = async (): Promise<void> => {
    try {
      const [row] = await database.db.select({ status: assets.status }).from(assets).where(eq(assets.id, assetId))
      if (!row || inspected.has(row.status)) resolve()
    } catch (error) {
      reject(error)
    }
  }
  using _ear = assetNotices.subscribe({
    onNotice: (notice) => {
      if (notice.assetId === assetId && inspected.has(notice.status)) resolve()
    },
    onGap: () => void look(),
  })
  const timer = setTimeout(resolve, timeoutMs)
  const onAbort = (): void => resolve()
  signal?.addEventListener('abort', onAbort, { once: true })
  try {
    await look()
    await promise
  } finally {
    clearTimeout(timer)
    signal?.removeEventListener('abort', onAbort)
  }
}
