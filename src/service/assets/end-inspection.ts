// How an inspection ends: the asset is ready and refers to its file, or it is rejected and its file goes.
import { and, eq } from 'drizzle-orm'
import type { AssetReport } from '#worker/protocol.ts'
import type { Logger } from '../../logger.ts'
import type { Database, Transaction } from '../db/database.ts'
import { assets, type AssetData, type AssetStatus } from '../db/schema.ts'
import type { BlobStore } from '../files/blob-store.ts'
import type { Asset } from './asset.ts'
import { keepBlob, type StoredFile } from './asset-blobs.ts'
import { assetNotified } from './asset-notices.ts'

/** What came of an inspection. `error` is the server's fault, `rejected` the file's. */
export type Verdict =
  | { readonly status: 'ready'; readonly file: StoredFile; readonly report: AssetReport | null }
  | { readonly status: 'rejected' | 'error'; readonly reason: string }

/** What writing a verdict down needs of the surroundings. */
export type EndContext = {
  readonly database: Database
  readonly blobs: BlobStore
  readonly log: Logger
  readonly now: () => Date
}

/**
 * Write a verdict down in a transaction, together with `alongside`; when that gives false, nothing changes and the files
 * that the verdict brought are removed. False where the asset awaits no verdict any more.
 */
export async function endInspection(
  { blobs, database, log, now }: EndContext,
  asset: Asset,
  verdict: Verdict,
  alongside: (tx: Transaction) => Promise<boolean> = async () => true,
): Promise<boolean> {
  const stored = verdict.status === 'ready' ? verdict.file.key : null
  /** The file that became superfluous. */
  const outcome = await database.db.transaction(async (tx) => {
    const [row] = await tx.select().from(assets).where(eq(assets.id, asset.id)).for('update')
    const ours = row?.status === 'uploaded' && row.uploadKey === asset.uploadKey
    if (!(await alongside(tx)) || !ours) return null
    const obsolete = new Set<string>(row.uploadKey === null ? [] : [row.uploadKey])
    if (verdict.status === 'ready') {
      if (await keepBlob(tx, verdict.file)) obsolete.delete(verdict.file.key)
      else obsolete.add(verdict.file.key)
    }
    await write(tx, asset.id, changesBy(row, verdict, now()))
    return [...obsolete]
  })
  if (outcome === null) {
    if (stored !== null && stored !== asset.uploadKey) await blobs.delete([stored])
    return false
  }
  const details = verdict.status === 'ready' ? { sizeBytes: verdict.file.sizeBytes } : { reason: verdict.reason }
  log.info({ asset: asset.id, account: asset.accountId, type: asset.type, ...details }, `asset ${verdict.status}`)
  await blobs.delete(outcome)
  return true
}

async function write(tx: Transaction, id: string, changes: Partial<Asset> & { status: AssetStatus }): Promise<void> {
  await tx
    .update(assets)
    .set(changes)
    .where(and(eq(assets.id, id)))
    .returning({ told: assetNotified({ assetId: id, status: changes.status }) })
}

function changesBy(row: Asset, verdict: Verdict, at: Date): Partial<Asset> & { status: AssetStatus } {
  const done = { uploadKey: null, uploadHash: null, expiresAt: null }
  if (verdict.status !== 'ready')
    return { ...done, status: verdict.status, statusDetails: verdict.reason, sizeBytes: 0 }
  const { file } = verdict
  const report = verdict.report && storable(verdict.report)
  return {
    ...done,
    status: 'ready',
    statusDetails: report?.warnings.join('; ') ?? '',
    hash: file.hash,
    sizeBytes: file.sizeBytes,
    report,
    readyAt: at,
    data: report ? learned(row.data, report) : row.data,
  }
}

/** Words of a stranger's file may hold what PostgreSQL cannot store as text. */
function storable(report: AssetReport): AssetReport {
  return JSON.parse(JSON.stringify(report), (_key, value: unknown) =>
    typeof value === 'string' ? value.toWellFormed().replaceAll('\0', '�') : value,
  ) as AssetReport
}

/** What the owner has not said, from the file; the format is that of the file as it is kept. */
function learned(data: AssetData, report: AssetReport): AssetData {
  return {
    ...data,
    dataType: data.dataType ?? report.dataType,
    fileFormat: 'safetensors',
    triggerWords: data.triggerWords.length > 0 ? data.triggerWords : report.triggerWords,
  }
}
