// The library's counter: what the HTTP room asks of assets. Everything is asked in the name of an account, or with a
// permission that was signed for one asset.
import { AppError } from '../../errors.ts'
import type { Account } from '../accounts/account.ts'
import { publicOwner, uploadLimitBytes, type Asset } from './asset.ts'
import { blobKeys } from './asset-blobs.ts'
import { completeUpload, inspectionQueue, waitForInspection } from './complete-upload.ts'
import { createAsset, type NewAsset } from './create-asset.ts'
import { deleteAsset } from './delete-asset.ts'
import { signingKey } from './deployment-secret.ts'
import { checkSource, fetchAsset, type FetchContext, type RemoteSource } from './fetch-remote.ts'
import { listAssets, requireAsset, requireOwnAsset, type AssetFilter, type AssetPage } from './find-asset.ts'
import { abortParts, beginParts, completeParts, receivePart, type NamedPart } from './multipart-upload.ts'
import { receiveUpload } from './receive-upload.ts'
import {
  checkTransfer,
  issueSession,
  openSession,
  signTransfer,
  type Session,
  type SessionCredentials,
  type Transfer,
} from './signed-transfer.ts'

/** What {@link openAssetLibrary} needs of the surroundings. */
export type AssetLibraryContext = FetchContext & {
  readonly now: () => Date
  /** How long completing an upload waits for the inspection, {@link usualPatienceMs} when left out. */
  readonly patienceMs?: number
}

/** The bytes of a file, and how many. */
export type FileBytes = { readonly sizeBytes: number; readonly chunks: AsyncIterable<Uint8Array> }

/** What can be done with assets. References are ids, names, or `owner:name`; those of others answer like none at all. */
export type AssetLibrary = AsyncDisposable & {
  /** Throws `bad_argument`, `unsupported`, and `forbidden` for public assets of anybody but the library's owner. */
  create(account: Account, asset: Omit<NewAsset, 'url' | 'hfRepo'>, source: RemoteSource): Promise<Asset>
  /** Hand an upload to its inspection, and wait for that a moment. Throws `not_found`, `bad_argument`. */
  complete(account: Account, id: string, signal: AbortSignal): Promise<Asset>
  /** Throws `not_found`. */
  get(account: Account, reference: string): Promise<Asset>
  list(
    account: Account,
    filter: AssetFilter,
    page: AssetPage,
  ): Promise<{ readonly assets: readonly Asset[]; readonly total: number }>
  /** The time of it. Throws `not_found`. */
  delete(account: Account, reference: string): Promise<{ readonly id: string; readonly deletedAt: Date }>
  /** A permission to send or fetch an asset's file, with its signature. */
  sign(asset: Asset, method: Transfer['method']): Promise<Transfer & { readonly signature: string }>
  /** Credentials to send an asset's file in the manner of S3. */
  session(asset: Asset): Promise<SessionCredentials>
  /** Throws `forbidden`. */
  openSession(token: string): Promise<Session>
  /** Throws `forbidden` for a permission that was not given so, or no longer is. */
  checkTransfer(transfer: Transfer, signature: string): Promise<void>
  /** Take an asset's file; gives an ETag. Throws `forbidden`, `too_large`, and what `chunks` throws. */
  receive(assetId: string, chunks: AsyncIterable<Uint8Array>): Promise<string>
  /** An asset's file, as it was sent or as it is kept. Throws `not_found`. */
  read(assetId: string): Promise<FileBytes>
  readonly parts: {
    begin(assetId: string): Promise<string>
    receive(assetId: string, uploadId: string, number: number, chunks: AsyncIterable<Uint8Array>): Promise<string>
    complete(assetId: string, uploadId: string, parts: readonly NamedPart[]): Promise<string>
    abort(assetId: string, uploadId: string): Promise<void>
  }
}

/** How long a signed URL or a session may be used. */
const permissionMs = 24 * 60 * 60 * 1000
/** Small files are ready in the first answer that way; clients that find them only uploaded look again after ten seconds. */
const usualPatienceMs = 10_000

/** The assets of one database; makes the queue of their inspections. */
export async function openAssetLibrary(context: AssetLibraryContext): Promise<AssetLibrary> {
  const { blobs, database, now, patienceMs = usualPatienceMs } = context
  const { db } = database
  await context.messages.create(inspectionQueue(context.deployment))
  const urlKey = await signingKey(db, 'url')
  const sessionKey = await signingKey(db, 'session')
  const closing = new AbortController()
  const fetches = new Set<Promise<void>>()
  const expiry = (): number => Math.floor((now().getTime() + permissionMs) / 1000)

  return {
    async create(account, asset, source) {
      const { url, hfRepo } = source
      if (asset.isPublic && account.name !== publicOwner)
        throw new AppError('forbidden', 'is_public: only the operator adds to the public library', {
          field: 'is_public',
        })
      checkSource(context.remote, source)
      const made = await createAsset(context, account.id, { ...asset, url, hfRepo })
      if (url !== null || hfRepo !== null) {
        const fetching = fetchAsset(context, made, source, closing.signal).finally(() => fetches.delete(fetching))
        fetches.add(fetching)
      }
      return made
    },
    async complete(account, id, signal) {
      const asset = await requireOwnAsset(db, account, id)
      await completeUpload(context, asset)
      await waitForInspection(context, asset.id, patienceMs, AbortSignal.any([signal, closing.signal]))
      return requireOwnAsset(db, account, id)
    },
    get: (account, reference) => requireAsset(db, account, reference),
    list: (account, filter, page) => listAssets(db, account, filter, page),
    async delete(account, reference) {
      const { id } = await requireAsset(db, account, reference)
      const asset = await requireOwnAsset(db, account, id)
      return { id, deletedAt: await deleteAsset(context, asset) }
    },
    async sign({ id, type }, method) {
      const limit = method === 'PUT' ? uploadLimitBytes(type) : 0
      const transfer: Transfer = { method, assetId: id, expires: expiry(), limit }
      return { ...transfer, signature: signTransfer(urlKey, transfer) }
    },
    session: async ({ id }) => issueSession(sessionKey, id, expiry()),
    openSession: async (token) => openSession(sessionKey, token, now()),
    checkTransfer: async (transfer, signature) => checkTransfer(urlKey, transfer, signature, now()),
    async receive(assetId, chunks) {
      const { hash } = await receiveUpload(context, assetId, chunks)
      return `${hash.slice(0, 32)}-1`
    },
    read: (assetId) => readFile(context, assetId),
    parts: {
      begin: (assetId) => beginParts(context, assetId),
      receive: (assetId, uploadId, number, chunks) => receivePart(context, assetId, uploadId, number, chunks),
      complete: (assetId, uploadId, parts) => completeParts(context, assetId, uploadId, parts),
      abort: (assetId, uploadId) => abortParts(context, assetId, uploadId),
    },
    async [Symbol.asyncDispose]() {
      closing.abort(new AppError('cancelled', 'the server stopped'))
      await Promise.all(fetches)
    },
  }

  async function readFile({ database: { db: from } }: AssetLibraryContext, assetId: string): Promise<FileBytes> {
    const asset = await from.query.assets.findFirst({
      where: (row, { and, eq, isNull }) => and(eq(row.id, assetId), isNull(row.deletedAt)),
    })
    const key = asset?.hash ? (await blobKeys(from, [asset.hash])).get(asset.hash) : asset?.uploadKey
    const chunks = key ? await blobs.read(key) : null
    if (!asset || !chunks) throw new AppError('not_found', 'the asset has no file')
    return { sizeBytes: asset.sizeBytes, chunks }
  }
}
