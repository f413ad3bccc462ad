// Files of assets by their content. Whoever has uploaded the same bytes before is found only after all of them have come,
// so that nobody learns of another's files; a file goes when nothing refers to it any more.
import { and, eq, inArray, notExists, sql } from 'drizzle-orm'
import type { ContentHash } from '#worker/protocol.ts'
import type { Database, Transaction } from '../db/database.ts'
import { assetBlobs, assets, jobAssets, jobs, uploadParts } from '../db/schema.ts'
import type { BlobStore } from '../files/blob-store.ts'
import { finalStates } from '../jobs/job.ts'
import { assetFilesPrefix } from './asset.ts'

/** A file that lies in the store. */
export type StoredFile = { readonly hash: ContentHash; readonly key: string; readonly sizeBytes: number }

/** Make a file one that assets can refer to. False where the same bytes are there already under another key. */
export async function keepBlob(tx: Transaction, { hash, key, sizeBytes }: StoredFile): Promise<boolean> {
  const [kept] = await tx
    .insert(assetBlobs)
    .values({ hash, key, sizeBytes })
    // Locks the row that is there, so that it cannot go before this transaction refers to it.
    .onConflictDoUpdate({ target: assetBlobs.hash, set: { sizeBytes: sql`${assetBlobs.sizeBytes}` } })
    .returning({ key: assetBlobs.key })
  return kept.key === key
}

/** Where the files of some hashes lie in the store. */
export async function blobKeys(
  db: Database['db'],
  hashes: readonly ContentHash[],
): Promise<ReadonlyMap<ContentHash, string>> {
  if (hashes.length === 0) return new Map()
  const rows = await db
    .select()
    .from(assetBlobs)
    .where(inArray(assetBlobs.hash, [...hashes]))
  return new Map(rows.map(({ hash, key }) => [hash, key]))
}

/** Remove files that neither an asset nor an unfinished job refers to; returns how many. */
export async function removeUnreferenced(database: Database, blobs: BlobStore): Promise<number> {
  const { db } = database
  await db
    .delete(jobAssets)
    .where(inArray(jobAssets.jobId, db.select({ id: jobs.id }).from(jobs).where(inArray(jobs.state, finalStates))))
  const unused = and(
    notExists(
      db
        .select({ one: sql`1` })
        .from(assets)
        .where(eq(assets.hash, assetBlobs.hash)),
    ),
    notExists(
      db
        .select({ one: sql`1` })
        .from(jobAssets)
        .where(eq(jobAssets.hash, assetBlobs.hash)),
    ),
  )
  const candidates = await db.select({ hash: assetBlobs.hash }).from(assetBlobs).where(unused)
  let removed = 0
  for (const { hash } of candidates) {
    const key = await deleteRow(db, hash, unused)
    if (key === null) continue
    // Should this fail, the file is an orphan, which the sweep finds.
    await blobs.delete([key])
    removed++
  }
  return removed
}

async function deleteRow(
  db: Database['db'],
  hash: ContentHash,
  unused: ReturnType<typeof and>,
): Promise<string | null> {
  try {
    const [gone] = await db
      .delete(assetBlobs)
      .where(and(eq(assetBlobs.hash, hash), unused))
      .returning({ key: assetBlobs.key })
    return gone?.key ?? null
  } catch (error) {
    // Somebody has referred to it in this moment.
    if (isForeignKeyViolation(error)) return null
    throw error
  }
}

/** Remove files of assets older than `before` that no row knows; returns how many. */
export async function sweepAssetFiles(
  { database, blobs }: { readonly database: Database; readonly blobs: BlobStore },
  before: Date,
): Promise<number> {
  const { db } = database
  let swept = 0
  let batch: string[] = []
  const flush = async (): Promise<void> => {
    if (batch.length === 0) return
    const known = new Set<string | null>()
    for (const { key } of await db
      .select({ key: assetBlobs.key })
      .from(assetBlobs)
      .where(inArray(assetBlobs.key, batch)))
      known.add(key)
    for (const { key } of await db
      .select({ key: assets.uploadKey })
      .from(assets)
      .where(inArray(assets.uploadKey, batch)))
      known.add(key)
    for (const { key } of await db
      .select({ key: uploadParts.key })
      .from(uploadParts)
      .where(inArray(uploadParts.key, batch)))
      known.add(key)
    const orphans = batch.filter((key) => !known.has(key))
    await blobs.delete(orphans)
    swept += orphans.length
    batch = []
  }
  for await (const { key, modifiedAt } of blobs.list(assetFilesPrefix)) {
    if (modifiedAt >= before) continue
    batch.push(key)
    if (batch.length === 200) await flush()
  }
  await flush()
  return swept
}

/** Whether a query failed because it refers to a row that has gone, or removes one that is referred to. */
export function isForeignKeyViolation(error: unknown): boolean {
  for (let at = error; at instanceof Error; at = at.cause)
    if ((at as { readonly code?: unknown }).code === '23503') return true
  return false
}
