// One asset looked up for `sepia generate`: through a running server's socket, or in database and files opened here. No model
// and no engine is needed for that.
import path from 'node:path'
import { findAccount } from '#service/accounts/account.ts'
import { findAdministrator } from '#service/admin/admin-socket.ts'
import { AssetFiles } from '#service/assets/asset-files.ts'
import { locateAsset } from '#service/assets/public-library.ts'
import { dataFolder } from '#service/db/data-folder.ts'
import { openDatabase } from '#service/db/database.ts'
import { openDiskBlobStore } from '#service/files/disk-blob-store.ts'
import { openS3BlobStore } from '#service/files/s3-blob-store.ts'
import type { Config } from '../config.ts'
import { AppError } from '../errors.ts'
import type { LibraryOptions } from './asset-places.ts'

/** An asset's type and where its file lies. */
export type FoundAsset = { readonly type: string; readonly path: string }

const accountName = 'default'

/** What a reference names for the account "default"; null for nothing. Throws `bad_argument` for an asset without a file. */
export async function findInLibrary(
  reference: string,
  { data }: LibraryOptions,
  config: Config,
): Promise<FoundAsset | null> {
  try {
    return await find(reference, data === undefined ? config.dataDir : path.resolve(data), config)
  } catch (error) {
    if (error instanceof AppError && error.code === 'not_found') return null
    throw error
  }
}

async function find(reference: string, dataDir: string, config: Config): Promise<FoundAsset | null> {
  const { cacheDir, cacheLimitBytes, databaseUrl, s3 } = config
  const folder = dataFolder(dataDir)
  const running = databaseUrl === null ? await findAdministrator(folder.adminSocket) : null
  if (running) {
    const { type, path: place } = await running({ command: 'locateAsset', account: accountName, reference })
    return { type, path: place }
  }
  await using resources = new AsyncDisposableStack()
  const where =
    databaseUrl === null ? { kind: 'pglite' as const, dataDir } : { kind: 'postgres' as const, url: databaseUrl }
  const database = resources.use(await openDatabase(where))
  const account = await findAccount(database.db, accountName)
  if (account === null) return null
  const blobs = s3 === null ? await openDiskBlobStore(folder.files) : resources.use(await openS3BlobStore(s3))
  const assetFiles = new AssetFiles({ blobs, cacheDir, cacheLimitBytes })
  const { asset, path: place } = await locateAsset({ database, assetFiles }, account, reference)
  return { type: asset.type, path: place }
}
