// What an operator does with the library: adds a file of this machine, which is looked into at once, lists, removes and
// exports. It goes through the same doors as an upload.
import { createReadStream } from 'node:fs'
import { rm, writeFile } from 'node:fs/promises'
import { eq } from 'drizzle-orm'
import { AppError } from '../../errors.ts'
import { findAccount, createAccount, type Account } from '../accounts/account.ts'
import type { Drizzle } from '../db/database.ts'
import { assets, type AssetData, type AssetType } from '../db/schema.ts'
import { publicOwner, sdxlEngine, uploadLimitBytes, type Asset } from './asset.ts'
import { blobKeys } from './asset-blobs.ts'
import type { AssetFiles } from './asset-files.ts'
import type { CompleteContext } from './complete-upload.ts'
import { createAsset } from './create-asset.ts'
import { deleteAsset } from './delete-asset.ts'
import { endInspection, type EndContext } from './end-inspection.ts'
import { listAssets as listVisible, requireAsset, requireOwnAsset, findAsset, type Viewer } from './find-asset.ts'
import { fileSize, inspectFile, type InspectContext } from './inspect-file.ts'
import { receiveUpload, type ReceiveContext } from './receive-upload.ts'

/** What an operator's commands need of the surroundings. */
export type LibraryContext = ReceiveContext &
  CompleteContext &
  EndContext &
  InspectContext & { readonly assetFiles: AssetFiles }

/** A file of this machine that is to become an asset. */
export type AddedFile = {
  readonly accountId: string
  readonly type: AssetType
  readonly name: string
  /** A safetensors, .pt, .ckpt or .bin file; it is copied. */
  readonly path: string
  readonly description?: string
  readonly isPublic?: boolean
  readonly data?: Partial<AssetData>
  /** Told of for whoever asks where it came from. */
  readonly url?: string | null
  readonly hfRepo?: string | null
  readonly signal?: AbortSignal | undefined
}

/**
 * Add a file, and wait until it was looked into. Throws `bad_argument` for a name that is taken or a file that cannot be
 * read, `too_large`, and `bad_file` with the reason for a file that cannot be used, of which nothing is left then.
 */
export async function addAsset(context: LibraryContext, added: AddedFile): Promise<Asset> {
  const { accountId, type, name, path, description = '', isPublic = false, url = null, hfRepo = null } = added
  const sizeBytes = await fileSize(path)
  const limitBytes = uploadLimitBytes(type)
  if (sizeBytes > limitBytes)
    throw new AppError('too_large', `file ${path}: a ${type} may have ${limitBytes} bytes, this one has ${sizeBytes}`)
  const data: AssetData = {
    engine: type === 'file' ? null : sdxlEngine,
    dataType: null,
    fileFormat: null,
    triggerWords: [],
    checkpoint: null,
    version: null,
    ...added.data,
  }
  const asset = await createAsset(context, accountId, { name, description, type, data, isPublic, url, hfRepo })
  try {
    await receiveUpload(context, asset.id, createReadStream(path))
    return await inspectNow(context, asset.id, added.signal ?? new AbortController().signal)
  } catch (error) {
    await deleteAsset(context, asset)
    throw error
  }
}

/** Look into an upload without the queue. */
async function inspectNow(context: LibraryContext, assetId: string, signal: AbortSignal): Promise<Asset> {
  const { assetFiles, database } = context
  const { db } = database
  const [asset] = await db.update(assets).set({ status: 'uploaded' }).where(eq(assets.id, assetId)).returning()
  const { uploadHash: hash, uploadKey: key, sizeBytes } = asset
  if (hash === null || key === null) throw new AppError('internal', `asset ${assetId} has no upload`)
  const place = await assetFiles.placeOf({ hash, key })
  const verdict = await inspectFile(context, asset, { hash, key, sizeBytes }, place, signal)
  if (verdict.status !== 'ready') throw new AppError('bad_file', `${asset.name}: ${verdict.reason}`, { field: 'path' })
  await endInspection(context, asset, verdict)
  const [ready] = await db.select().from(assets).where(eq(assets.id, assetId))
  return ready
}

/** The account that owns the public library, made when there is none. */
export async function publicAccount(db: Drizzle): Promise<Account> {
  return (await findAccount(db, publicOwner)) ?? createAccount(db, { name: publicOwner })
}

/** All assets of an account, of whatever status, the latest first. */
export async function listAssets(context: LibraryContext, owner: Viewer): Promise<Asset[]> {
  const { assets: found } = await listVisible(
    context.database.db,
    owner,
    { owner: owner.id },
    { limit: 100_000, offset: 0 },
  )
  return found
}

/** The account's own asset of an id or name. Throws `not_found`. */
export async function showAsset(context: LibraryContext, owner: Viewer, idOrName: string): Promise<Asset> {
  const { db } = context.database
  const found = await findAsset(db, owner, idOrName)
  return requireOwnAsset(db, owner, found?.id ?? idOrName)
}

/**
 * The asset that a reference of this viewer's names, their own first, and the place of its file on this machine. Throws
 * `not_found`, `bad_argument` for one that is not ready.
 */
export async function locateAsset(
  context: Pick<LibraryContext, 'database' | 'assetFiles'>,
  viewer: Viewer,
  reference: string,
): Promise<{ readonly asset: Asset; readonly path: string }> {
  const asset = await requireAsset(context.database.db, viewer, reference)
  const { hash } = asset
  const key = hash === null ? undefined : (await blobKeys(context.database.db, [hash])).get(hash)
  if (hash === null || key === undefined)
    throw new AppError('bad_argument', `asset "${reference}": has no file to use, it is ${asset.status}`)
  return { asset, path: await context.assetFiles.placeOf({ hash, key }) }
}

/** Delete the account's asset of an id or name. Throws `not_found`. */
export async function removeAsset(context: LibraryContext, owner: Viewer, idOrName: string): Promise<Asset> {
  const asset = await showAsset(context, owner, idOrName)
  await deleteAsset(context, asset)
  return asset
}

/** Copy an asset's file to `path`, where nothing may lie yet. Throws `not_found`, `bad_argument`, `output_unwritable`. */
export async function exportAsset(
  context: LibraryContext,
  owner: Viewer,
  idOrName: string,
  path: string,
): Promise<Asset> {
  const asset = await showAsset(context, owner, idOrName)
  if (asset.hash === null)
    throw new AppError('bad_argument', `asset "${asset.name}": has no file to export, it is ${asset.status}`)
  const key = (await blobKeys(context.database.db, [asset.hash])).get(asset.hash)
  const chunks = key === undefined ? null : await context.blobs.read(key)
  if (!chunks) throw new AppError('internal', `asset ${asset.id}: its file is not stored`)
  try {
    await writeFile(path, chunks, { flag: 'wx' })
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code !== 'EEXIST') await rm(path, { force: true })
    throw new AppError('output_unwritable', `file ${path}: cannot be written (${code})`, { cause: error })
  }
  return asset
}
