// Looking assets up. An account sees its own and, of the public library, what is ready; everything else answers like what
// does not exist.
import { and, asc, count, desc, eq, inArray, isNull, or, sql, type SQL } from 'drizzle-orm'
import { AppError } from '../../errors.ts'
import type { Drizzle, Transaction } from '../db/database.ts'
import { accounts, assets, type AssetType } from '../db/schema.ts'
import { isAssetId, publicAliases, publicOwner, type Asset } from './asset.ts'

/** Who looks. */
export type Viewer = { readonly id: string; readonly name: string }

/** Which assets to list; what is left out does not matter. */
export type AssetFilter = {
  readonly name?: string | undefined
  readonly isPublic?: boolean | undefined
  readonly dataTypes?: readonly string[] | undefined
  readonly types?: readonly AssetType[] | undefined
  readonly engines?: readonly string[] | undefined
  /** What an engine's name begins with, such as `image`. */
  readonly engineType?: string | undefined
  readonly fileFormats?: readonly string[] | undefined
  readonly owner?: string | undefined
  readonly ids?: readonly string[] | undefined
}

export type AssetPage = { readonly limit: number; readonly offset: number }

const notDeleted = isNull(assets.deletedAt)
const publicAccount = sql`(select id from ${accounts} where ${accounts.name} = ${publicOwner})`
const ofLibrary = and(eq(assets.accountId, publicAccount), eq(assets.isPublic, true), eq(assets.status, 'ready'))

const ownedBy = (viewer: Viewer): SQL => eq(assets.accountId, viewer.id)
const visibleTo = (viewer: Viewer): SQL | undefined => or(ownedBy(viewer), ofLibrary)

/**
 * The asset that a reference names: by id, by `owner:name`, else the viewer's own of that name, else the library's. Null
 * where there is none that the viewer may see.
 */
export async function findAsset(db: Drizzle | Transaction, viewer: Viewer, reference: string): Promise<Asset | null> {
  const found = await db
    .select()
    .from(assets)
    .where(and(notDeleted, matching(viewer, reference)))
    // The viewer's own go first.
    .orderBy(sql`${assets.accountId} = ${viewer.id} desc`)
    .limit(1)
  return found[0] ?? null
}

/** The same. Throws `not_found` that names the reference. */
export async function requireAsset(
  db: Drizzle | Transaction,
  viewer: Viewer,
  reference: string,
  field?: string,
): Promise<Asset> {
  const asset = await findAsset(db, viewer, reference)
  if (asset) return asset
  const shown = reference.length <= 140 ? JSON.stringify(reference) : `a text of ${reference.length} characters`
  throw new AppError('not_found', `there is no asset ${shown}`, field === undefined ? {} : { field })
}

/** The viewer's own asset of an id. Throws `not_found`, also for those of others. */
export async function requireOwnAsset(db: Drizzle | Transaction, viewer: Viewer, id: string): Promise<Asset> {
  const [asset] = await db
    .select()
    .from(assets)
    .where(and(notDeleted, ownedBy(viewer), eq(assets.id, id)))
  if (!asset) throw new AppError('not_found', `there is no asset ${JSON.stringify(id.slice(0, 140))}`)
  return asset
}

/** Conditions under which an asset is meant by a reference; none for one that no asset can have. */
function matching(viewer: Viewer, reference: string): SQL | undefined {
  // PostgreSQL has no text with NUL.
  if (reference.length > 140 || reference.includes('\0') || !reference.isWellFormed()) return sql`false`
  if (isAssetId(reference)) return and(eq(assets.id, reference), visibleTo(viewer))
  const colon = reference.indexOf(':')
  if (colon === -1) return and(eq(assets.name, reference), visibleTo(viewer))
  const [owner, name] = [reference.slice(0, colon), reference.slice(colon + 1)]
  if (publicAliases.includes(owner)) return and(eq(assets.name, name), ofLibrary)
  return owner === viewer.name ? and(eq(assets.name, name), ownedBy(viewer)) : sql`false`
}

/** A page of what the viewer sees, the latest first: own assets, and the library's where the filter asks for them. */
export async function listAssets(
  db: Drizzle | Transaction,
  viewer: Viewer,
  filter: AssetFilter,
  { limit, offset }: AssetPage,
): Promise<{ readonly assets: Asset[]; readonly total: number }> {
  const { name, isPublic, dataTypes, types, engines, engineType, fileFormats, ids } = filter
  const within = (key: string, values: readonly string[] | undefined) =>
    values && inArray(sql`${assets.data} ->> ${key}`, [...values])
  const wanted = and(
    notDeleted,
    scope(viewer, filter),
    name === undefined ? undefined : eq(assets.name, name),
    isPublic === undefined ? undefined : eq(assets.isPublic, isPublic),
    types && inArray(assets.type, [...types]),
    ids && inArray(assets.id, [...ids]),
    within('dataType', dataTypes),
    within('fileFormat', fileFormats),
    within('engine', engines),
    engineType === undefined ? undefined : sql`starts_with(${assets.data} ->> 'engine', ${`${engineType}/`})`,
  )
  const [{ total }] = await db.select({ total: count() }).from(assets).where(wanted)
  const page = await db
    .select()
    .from(assets)
    .where(wanted)
    .orderBy(desc(assets.createdAt), asc(assets.id))
    .limit(limit)
    .offset(offset)
  return { assets: page, total }
}

/** Whose assets a list is about. */
function scope(viewer: Viewer, { owner, isPublic, ids }: AssetFilter): SQL | undefined {
  if (owner !== undefined) {
    if (publicAliases.includes(owner)) return ofLibrary
    return owner === viewer.name || owner === viewer.id ? ownedBy(viewer) : sql`false`
  }
  return isPublic === true || ids !== undefined ? visibleTo(viewer) : ownedBy(viewer)
}
