// An upload in parts, in the manner of S3: parts come in any order and may be sent again; completing joins those that are
// named, in their order, into the asset's file.
import { randomBytes } from 'node:crypto'
import { and, eq, gt, inArray, sum } from 'drizzle-orm'
import { AppError } from '../../errors.ts'
import { uploadParts } from '../db/schema.ts'
import type { BlobStore } from '../files/blob-store.ts'
import { uploadLimitBytes } from './asset.ts'
import { attachUpload, requireOpen, storeUpload, type ReceiveContext } from './receive-upload.ts'

/** A part as its sender names it when it completes the upload. */
export type NamedPart = { readonly number: number; readonly etag: string }

/** Parts that an upload may have, as in S3. */
export const mostParts = 10_000
const openAtOnce = 20

/** Begin an upload in parts; gives its id. Throws `forbidden`, `bad_argument` where too many are open. */
export async function beginParts(context: ReceiveContext, assetId: string): Promise<string> {
  await requireOpen(context, assetId)
  const uploadId = randomBytes(24).toString('hex')
  const { db } = context.database
  const open = await db
    .select({ id: uploadParts.uploadId })
    .from(uploadParts)
    .where(and(eq(uploadParts.assetId, assetId), eq(uploadParts.number, 0)))
  if (open.length >= openAtOnce)
    throw new AppError('bad_argument', `the asset has ${open.length} uploads in parts open; abort some of them`)
  await db.insert(uploadParts).values({ assetId, uploadId, number: 0, key: '', sizeBytes: 0, etag: '' })
  return uploadId
}

/** Take one part; gives its ETag. Throws `not_found` for an unknown upload, `too_large`, `bad_argument`, `forbidden`. */
export async function receivePart(
  context: ReceiveContext,
  assetId: string,
  uploadId: string,
  number: number,
  chunks: AsyncIterable<Uint8Array>,
): Promise<string> {
  const { blobs, database } = context
  if (!Number.isInteger(number) || number < 1 || number > mostParts)
    throw new AppError('bad_argument', `partNumber: a whole number from 1 to ${mostParts}, got ${number}`)
  const { type } = await requireOpen(context, assetId)
  await requireUpload(context, assetId, uploadId)
  const [{ others }] = await database.db
    .select({ others: sum(uploadParts.sizeBytes) })
    .from(uploadParts)
    .where(eq(uploadParts.assetId, assetId))
  const left = uploadLimitBytes(type) - Number(others ?? 0)
  const { key, hash, sizeBytes } = await storeUpload(context, chunks, left)
  // With a dash it is no MD5, and clients compare it with nothing.
  const etag = `${hash.slice(0, 32)}-1`
  const part = { key, sizeBytes, etag }
  const former = await database.db.transaction(async (tx) => {
    // The upload's own row, locked, so that it is not completed or aborted now.
    const [upload] = await tx.select().from(uploadParts).where(partOf(uploadId, 0)).for('update')
    if (!upload) return { key, gone: true }
    const [before] = await tx.select().from(uploadParts).where(partOf(uploadId, number))
    await tx
      .insert(uploadParts)
      .values({ assetId, uploadId, number, ...part })
      .onConflictDoUpdate({ target: [uploadParts.uploadId, uploadParts.number], set: part })
    return { key: before?.key ?? null, gone: false }
  })
  if (former.key !== null) await blobs.delete([former.key])
  if (former.gone) throw noUpload()
  return etag
}

/** Join the named parts into the asset's file. Throws `not_found`, `bad_argument` for parts that are not there, `forbidden`. */
export async function completeParts(
  context: ReceiveContext,
  assetId: string,
  uploadId: string,
  named: readonly NamedPart[],
): Promise<string> {
  const { type } = await requireOpen(context, assetId)
  await requireUpload(context, assetId, uploadId)
  const parts = await context.database.db
    .select()
    .from(uploadParts)
    .where(and(eq(uploadParts.uploadId, uploadId), gt(uploadParts.number, 0)))
  const byNumber = new Map(parts.map((part) => [part.number, part]))
  const keys: string[] = []
  let last = 0
  for (const { number, etag } of named) {
    const part = byNumber.get(number)
    if (number <= last) throw new AppError('bad_argument', `part ${number}: parts must be named in ascending order`)
    if (part?.etag !== etag) throw new AppError('bad_argument', `part ${number}: there is none with this ETag`)
    keys.push(part.key)
    last = number
  }
  if (keys.length === 0) throw new AppError('bad_argument', 'an upload has at least one part')
  const stored = await storeUpload(context, joined(context.blobs, keys), uploadLimitBytes(type))
  await attachUpload(context, assetId, stored)
  await removeParts(context, [uploadId])
  return `${stored.hash.slice(0, 32)}-${keys.length}`
}

/** Give an upload up, with all of its parts. Throws `not_found`. */
export async function abortParts(context: ReceiveContext, assetId: string, uploadId: string): Promise<void> {
  await requireUpload(context, assetId, uploadId)
  await removeParts(context, [uploadId])
}

/** Remove all unfinished uploads of some assets. */
export async function removePartsOf(context: ReceiveContext, assetIds: readonly string[]): Promise<void> {
  if (assetIds.length === 0) return
  const rows = await context.database.db
    .selectDistinct({ uploadId: uploadParts.uploadId })
    .from(uploadParts)
    .where(inArray(uploadParts.assetId, [...assetIds]))
  await removeParts(
    context,
    rows.map(({ uploadId }) => uploadId),
  )
}

async function removeParts({ blobs, database }: ReceiveContext, uploadIds: readonly string[]): Promise<void> {
  if (uploadIds.length === 0) return
  const gone = await database.db
    .delete(uploadParts)
    .where(inArray(uploadParts.uploadId, [...uploadIds]))
    .returning({ key: uploadParts.key })
  await blobs.delete(gone.map(({ key }) => key).filter((key) => key !== ''))
}

async function* joined(blobs: BlobStore, keys: readonly string[]): AsyncGenerator<Uint8Array> {
  for (const key of keys) {
    const chunks = await blobs.read(key)
    if (!chunks) throw noUpload()
    yield* chunks
  }
}

async function requireUpload({ database }: ReceiveContext, assetId: string, uploadId: string): Promise<void> {
  const found = await database.db
    .select({ id: uploadParts.uploadId })
    .from(uploadParts)
    .where(and(partOf(uploadId, 0), eq(uploadParts.assetId, assetId)))
  if (found.length === 0) throw noUpload()
}

const partOf = (uploadId: string, number: number) =>
  and(eq(uploadParts.uploadId, uploadId), eq(uploadParts.number, number))

function noUpload(): AppError {
  return new AppError('not_found', 'there is no such upload in parts; it was completed or aborted')
}
