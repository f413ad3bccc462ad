// A new entry of the library, whose bytes are still to come.
import { and, count, eq, inArray, isNull } from 'drizzle-orm'
import { AppError } from '../../errors.ts'
import type { Database } from '../db/database.ts'
import { assets, type AssetData, type AssetType } from '../db/schema.ts'
import { checkedName, controlnetEngine, newAssetId, openStatuses, sdxlEngine, type Asset } from './asset.ts'

/** What its owner says of a new asset. */
export type NewAsset = {
  readonly name: string
  readonly description: string
  readonly type: AssetType
  readonly data: AssetData
  readonly isPublic: boolean
  readonly url: string | null
  readonly hfRepo: string | null
}

/** How long an upload may take until it is complete. */
export const uploadTimeMs = 24 * 60 * 60 * 1000
/** Uploads that an account may have begun and not completed. */
const openUploads = 100
const longestDescription = 10_000

/** Write an asset down. Throws `bad_argument`, `unsupported`, `too_many_jobs`. */
export async function createAsset(
  { database, now }: { readonly database: Database; readonly now: () => Date },
  accountId: string,
  { name, description, type, data, ...rest }: NewAsset,
): Promise<Asset> {
  checkedName(name)
  checkEngine(type, data)
  if (description.length > longestDescription)
    throw new AppError(
      'bad_argument',
      `description: at most ${longestDescription} characters, got ${description.length}`,
      { field: 'description' },
    )
  const createdAt = now()
  return database.db.transaction(async (tx) => {
    const [{ open }] = await tx
      .select({ open: count() })
      .from(assets)
      .where(and(eq(assets.accountId, accountId), isNull(assets.deletedAt), inArray(assets.status, [...openStatuses])))
    if (open >= openUploads)
      throw new AppError('bad_argument', `name: ${open} assets wait for their files; complete or delete some of them`, {
        field: 'name',
      })
    const [asset] = await tx
      .insert(assets)
      .values({
        id: newAssetId(),
        accountId,
        name,
        description,
        type,
        data,
        ...rest,
        status: 'ready_to_upload',
        createdAt,
        expiresAt: new Date(createdAt.getTime() + uploadTimeMs),
      })
      .onConflictDoNothing()
      .returning()
    if (!asset)
      throw new AppError('bad_argument', `name: there is an asset "${name}" already; delete it first`, {
        field: 'name',
      })
    return asset
  })
}

/** Throws `unsupported` for engines that are not run here. */
function checkEngine(type: AssetType, { engine }: AssetData): void {
  const refuse = (what: string): never => {
    throw new AppError('unsupported', what, { field: 'data' })
  }
  if (type === 'latent') refuse('asset_type: this server keeps no latents')
  if (type === 'file') return
  const allowed = type === 'checkpoint' ? [sdxlEngine, controlnetEngine] : [sdxlEngine]
  if (engine === null || !allowed.includes(engine))
    refuse(`data.engine: of a ${type} this server takes ${allowed.join(', ')}, got ${JSON.stringify(engine)}`)
}
