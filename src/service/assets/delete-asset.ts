// The end of an asset: its name is free at once, its bytes go as soon as no job needs them.
import { and, eq, isNull } from 'drizzle-orm'
import { AppError } from '../../errors.ts'
import { assets } from '../db/schema.ts'
import type { Asset } from './asset.ts'
import { removeUnreferenced } from './asset-blobs.ts'
import { assetNotified } from './asset-notices.ts'
import { inspectionQueue, type CompleteContext } from './complete-upload.ts'
import { removePartsOf } from './multipart-upload.ts'
import type { ReceiveContext } from './receive-upload.ts'

/** Delete an asset; gives the time. Throws `not_found` where somebody else was faster. */
export async function deleteAsset(
  context: ReceiveContext & CompleteContext & { readonly now: () => Date },
  asset: Asset,
): Promise<Date> {
  const { blobs, database, deployment, log, messages, now } = context
  const deletedAt = now()
  // It can be made outside of transactions only.
  if (asset.status !== 'ready') await messages.create(inspectionQueue(deployment))
  const upload = await database.db.transaction(async (tx) => {
    const [row] = await tx
      .select()
      .from(assets)
      .where(and(eq(assets.id, asset.id), isNull(assets.deletedAt)))
      .for('update')
    if (!row) throw new AppError('not_found', `there is no asset ${JSON.stringify(asset.id)}`)
    if (row.status === 'uploaded') await messages.cancel(tx, inspectionQueue(deployment), row.id)
    const gone = {
      status: 'deleted',
      deletedAt,
      hash: null,
      uploadKey: null,
      uploadHash: null,
      expiresAt: null,
    } as const
    await tx
      .update(assets)
      .set(gone)
      .where(eq(assets.id, row.id))
      .returning({ told: assetNotified({ assetId: row.id, status: 'deleted' }) })
    return row.uploadKey
  })
  log.info({ asset: asset.id, account: asset.accountId }, 'asset deleted')
  if (upload !== null) await blobs.delete([upload])
  await removePartsOf(context, [asset.id])
  await removeUnreferenced(database, blobs)
  return deletedAt
}
