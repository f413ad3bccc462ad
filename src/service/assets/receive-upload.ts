// Bytes of an asset on their way into the file store: hashed and counted while they pass, refused when they are too many,
// cut short, or nobody waits for them.
import { createHash } from 'node:crypto'
import { and, eq, inArray, isNull } from 'drizzle-orm'
import { AppError } from '../../errors.ts'
import type { Logger } from '../../logger.ts'
import type { Database } from '../db/database.ts'
import { assets } from '../db/schema.ts'
import type { BlobStore } from '../files/blob-store.ts'
import { newBlobKey, openStatuses, uploadLimitBytes, type Asset } from './asset.ts'
import type { StoredFile } from './asset-blobs.ts'

/** What receiving needs of the surroundings. */
export type ReceiveContext = {
  readonly database: Database
  readonly blobs: BlobStore
  readonly log: Logger
}

/** Store what comes under a new key. Throws `too_large`, and what `chunks` throws; then nothing is left. */
export async function storeUpload(
  { blobs }: Pick<ReceiveContext, 'blobs'>,
  chunks: AsyncIterable<Uint8Array>,
  limitBytes: number,
): Promise<StoredFile> {
  const key = newBlobKey()
  const hash = createHash('sha256')
  let sizeBytes = 0
  async function* measured(): AsyncGenerator<Uint8Array> {
    for await (const chunk of chunks) {
      sizeBytes += chunk.length
      if (sizeBytes > limitBytes) throw new AppError('too_large', `the file may have ${limitBytes} bytes, and has more`)
      hash.update(chunk)
      yield chunk
    }
  }
  await blobs.write(key, measured())
  return { key, sizeBytes, hash: hash.digest('hex') }
}

/** The asset that an upload is for. Throws `forbidden` where no bytes are awaited: it is complete, or has gone. */
export async function requireOpen({ database }: Pick<ReceiveContext, 'database'>, assetId: string): Promise<Asset> {
  const [asset] = await database.db.select().from(assets).where(isOpen(assetId))
  if (!asset) throw new AppError('forbidden', 'the upload is closed: its asset is complete or was deleted')
  return asset
}

/**
 * Take the whole file of an asset. A second one replaces the first as long as the upload is not complete. Throws
 * `forbidden`, `too_large`, and what `chunks` throws; then nothing is left of it.
 */
export async function receiveUpload(
  context: ReceiveContext,
  assetId: string,
  chunks: AsyncIterable<Uint8Array>,
): Promise<StoredFile> {
  const { database } = context
  const { type } = await requireOpen(context, assetId)
  await database.db.update(assets).set({ status: 'uploading' }).where(isOpen(assetId))
  const stored = await storeUpload(context, chunks, uploadLimitBytes(type))
  await attachUpload(context, assetId, stored)
  return stored
}

/** Make a stored file the upload of its asset. Throws `forbidden` where that was completed meanwhile; the file is removed then. */
export async function attachUpload(
  { blobs, database, log }: ReceiveContext,
  assetId: string,
  { key, hash, sizeBytes }: StoredFile,
): Promise<void> {
  const unwanted = await database.db.transaction(async (tx) => {
    const [before] = await tx.select().from(assets).where(isOpen(assetId)).for('update')
    if (!before) return { key, closed: true }
    await tx
      .update(assets)
      .set({ status: 'uploading', uploadKey: key, uploadHash: hash, sizeBytes })
      .where(eq(assets.id, assetId))
    return { key: before.uploadKey, closed: false }
  })
  if (unwanted.key !== null) await blobs.delete([unwanted.key])
  if (unwanted.closed)
    throw new AppError('forbidden', 'the upload is closed: its asset was completed or deleted while bytes came')
  log.info({ asset: assetId, sizeBytes }, 'asset uploading')
}

const isOpen = (assetId: string) =>
  and(eq(assets.id, assetId), isNull(assets.deletedAt), inArray(assets.status, [...openStatuses]))
