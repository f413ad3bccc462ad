// What is left of assets: uploads that were never completed, files that nobody refers to any more.
import { and, inArray, isNull, lt } from 'drizzle-orm'
import { assets } from '../db/schema.ts'
import { openStatuses } from './asset.ts'
import { removeUnreferenced, sweepAssetFiles } from './asset-blobs.ts'
import { removePartsOf } from './multipart-upload.ts'
import type { ReceiveContext } from './receive-upload.ts'

/** How much was removed. */
export type TidiedAssets = { readonly expired: number; readonly unreferenced: number; readonly swept: number }

/**
 * Delete assets whose upload has expired, with all of their bytes, and remove files that neither assets nor jobs need;
 * those younger than `before` may be on their way to a row. Several processes may do it at once, and again.
 */
export async function tidyAssets(
  context: ReceiveContext & { readonly now: () => Date },
  before: Date,
): Promise<TidiedAssets> {
  const { blobs, database, log, now } = context
  const { db } = database
  const due = await db
    .select({ id: assets.id, uploadKey: assets.uploadKey })
    .from(assets)
    .where(and(lt(assets.expiresAt, now()), isNull(assets.deletedAt), inArray(assets.status, [...openStatuses])))
  const given = due.map(({ id }) => id)
  if (given.length > 0) {
    const gone = { status: 'deleted', deletedAt: now(), uploadKey: null, uploadHash: null, expiresAt: null } as const
    const expired = await db
      .update(assets)
      .set(gone)
      .where(and(inArray(assets.id, given), inArray(assets.status, [...openStatuses])))
      .returning({ id: assets.id })
    const ids = new Set(expired.map(({ id }) => id))
    const keys = due.flatMap(({ id, uploadKey }) => (ids.has(id) && uploadKey !== null ? [uploadKey] : []))
    await removePartsOf(context, [...ids])
    // A file that came in this moment is an orphan now, and swept later.
    await blobs.delete(keys)
  }
  const tidied: TidiedAssets = {
    expired: given.length,
    unreferenced: await removeUnreferenced(database, blobs),
    swept: await sweepAssetFiles(context, before),
  }
  if (tidied.expired + tidied.unreferenced + tidied.swept > 0) log.info(tidied, 'assets tidied')
  return tidied
}
