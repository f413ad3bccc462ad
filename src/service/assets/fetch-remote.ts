// Assets that are fetched by the server itself, from a URL or a repository of the hub, instead of being sent.
import { and, eq, inArray } from 'drizzle-orm'
import { AppError } from '../../errors.ts'
import { assets } from '../db/schema.ts'
import { openStatuses, uploadLimitBytes, type Asset } from './asset.ts'
import { assetNotified } from './asset-notices.ts'
import { completeUpload, type CompleteContext } from './complete-upload.ts'
import { receiveUpload, type ReceiveContext } from './receive-upload.ts'
import { fetchHfRepo } from './remote/fetch-hf-repo.ts'
import { fetchUrl } from './remote/fetch-url.ts'
import type { FetchRules } from './remote/remote-file.ts'

/** What the operator allows the server to fetch. */
export type RemoteSettings = {
  /** Null: no URLs. */
  readonly urls: { readonly allowLoopback: boolean; readonly ca?: string | undefined } | null
  /** Null: no repositories. Tokens by the names that requests call them by. */
  readonly hub: { readonly endpoint: string; readonly tokens: Readonly<Record<string, string>> } | null
}

/** What a request asks the server to fetch. */
export type RemoteSource = {
  readonly url: string | null
  readonly hfRepo: string | null
  /** Name of one of the operator's tokens. */
  readonly hfTokenSecret: string | null
}

/** What fetching needs of the surroundings. */
export type FetchContext = ReceiveContext & CompleteContext & { readonly remote: RemoteSettings }

const idleMs = 60_000
const totalMs = 2 * 60 * 60 * 1000

/** Throws `bad_argument` for a source that cannot be, `unsupported` for one that the operator has not allowed. */
export function checkSource({ urls, hub }: RemoteSettings, { url, hfRepo, hfTokenSecret }: RemoteSource): void {
  const refuse = (code: 'bad_argument' | 'unsupported', field: string, what: string): never => {
    throw new AppError(code, `${field}: ${what}`, { field })
  }
  if (url !== null && hfRepo !== null) refuse('bad_argument', 'url', 'only one of url and hf_repo can be given')
  if (url !== null && urls === null)
    refuse('unsupported', 'url', 'this server fetches no URLs; its operator allows it with SEPIA_ASSET_URLS')
  if (hfRepo !== null && hub === null)
    refuse('unsupported', 'hf_repo', 'this server fetches no repositories; its operator allows it with SEPIA_ASSET_HUB')
  if (hfTokenSecret === null) return
  if (hfRepo === null) refuse('bad_argument', 'hf_token_secret', 'goes with hf_repo only')
  if (!Object.hasOwn(hub?.tokens ?? {}, hfTokenSecret))
    refuse('bad_argument', 'hf_token_secret', `the operator has stored no token ${JSON.stringify(hfTokenSecret)}`)
}

/** Fetch the file of an asset and hand it to its inspection; what goes wrong becomes its status. Never rejects. */
export async function fetchAsset(
  context: FetchContext,
  asset: Asset,
  { url, hfRepo, hfTokenSecret }: RemoteSource,
  signal: AbortSignal,
): Promise<void> {
  const { urls, hub } = context.remote
  const sink = async (bytes: AsyncIterable<Uint8Array>): Promise<void> =>
    void (await receiveUpload(context, asset.id, bytes))
  const rules: FetchRules = {
    allowLoopback: urls?.allowLoopback ?? false,
    ca: urls?.ca,
    maxBytes: uploadLimitBytes(asset.type),
    idleMs,
    totalMs,
    signal,
  }
  try {
    if (url !== null) await fetchUrl(url, rules, sink)
    else if (hfRepo !== null && hub) {
      const token = hfTokenSecret === null ? null : hub.tokens[hfTokenSecret]
      await fetchHfRepo(hfRepo, { endpoint: hub.endpoint, token, rules, field: 'hf_repo' }, sink)
    } else throw new AppError('internal', `asset ${asset.id}: nothing to fetch`)
    await completeUpload(context, asset)
  } catch (error) {
    await giveUp(context, asset, error)
  }
}

async function giveUp({ database, log }: FetchContext, asset: Asset, error: unknown): Promise<void> {
  log.warn({ asset: asset.id, err: error }, 'an asset could not be fetched')
  const reason = error instanceof AppError && error.code !== 'internal' ? error.message : 'it could not be fetched'
  try {
    await database.db
      .update(assets)
      .set({ status: 'error', statusDetails: reason, expiresAt: null })
      .where(and(eq(assets.id, asset.id), inArray(assets.status, [...openStatuses])))
      .returning({ told: assetNotified({ assetId: asset.id, status: 'error' }) })
  } catch (failure) {
    // It expires like an upload that never came.
    log.error({ asset: asset.id, err: failure }, 'the end of a fetch could not be written')
  }
}
