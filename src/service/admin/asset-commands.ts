// What an operator asks of the library, as plain data.
import { z } from 'zod'
import { AppError } from '../../errors.ts'
import { requireAccount } from '../accounts/account.ts'
import type { Asset } from '../assets/asset.ts'
import {
  addAsset,
  exportAsset,
  listAssets,
  locateAsset,
  publicAccount,
  removeAsset,
  showAsset,
  type LibraryContext,
} from '../assets/public-library.ts'
import { assetTypes } from '../db/schema.ts'

/** Id or name of an account; null: the owner of the public library. */
const account = z.string().nullable()
/** Id or name. */
const asset = z.string()

/** Commands about assets. Paths are absolute, and of the machine that carries the command out. */
export const assetCommands = [
  z.strictObject({
    command: z.literal('addAsset'),
    account,
    type: z.enum(assetTypes),
    name: z.string(),
    path: z.string(),
    description: z.string().optional(),
    isPublic: z.boolean(),
    engine: z.string().optional(),
    triggerWords: z.array(z.string()).optional(),
    url: z.string().optional(),
    hfRepo: z.string().optional(),
  }),
  z.strictObject({ command: z.literal('listAssets'), account }),
  z.strictObject({ command: z.literal('showAsset'), account, asset }),
  z.strictObject({ command: z.literal('removeAsset'), account, asset }),
  z.strictObject({ command: z.literal('locateAsset'), account, reference: z.string() }),
  z.strictObject({ command: z.literal('exportAsset'), account, asset, path: z.string() }),
] as const

export type AssetCommand = z.infer<(typeof assetCommands)[number]>

/** An asset as JSON; times as ISO 8601. */
export type AssetEntry = Omit<
  Asset,
  'createdAt' | 'readyAt' | 'expiresAt' | 'deletedAt' | 'accountId' | 'uploadKey' | 'uploadHash'
> & { readonly createdAt: string; readonly account: string }

/** What each command about assets answers. */
export type AssetAnswers = {
  readonly addAsset: AssetEntry
  readonly listAssets: readonly AssetEntry[]
  readonly showAsset: AssetEntry
  readonly removeAsset: AssetEntry
  /** Where the file lies on the machine that carries the command out. */
  readonly locateAsset: AssetEntry & { readonly path: string }
  readonly exportAsset: AssetEntry
}

/** Carry a command out. Throws what the library throws, and `not_found` for an unknown account. */
export async function answerAssetCommand(
  context: LibraryContext,
  command: AssetCommand,
): Promise<AssetAnswers[AssetCommand['command']]> {
  const { db } = context.database
  const owner = command.account === null ? await publicAccount(db) : await requireAccount(db, command.account)
  const shown = (found: Asset): AssetEntry => entryOf(found, owner.name)
  switch (command.command) {
    case 'addAsset': {
      const { type, name, path, description, isPublic, engine, triggerWords, url, hfRepo } = command
      if (isPublic && command.account !== null)
        throw new AppError('bad_argument', 'account: public assets belong to the library, not to an account')
      const data = { ...(engine !== undefined && { engine }), ...(triggerWords && { triggerWords }) }
      const added = { accountId: owner.id, type, name, path, isPublic, data, url: url ?? null, hfRepo: hfRepo ?? null }
      return shown(await addAsset(context, description === undefined ? added : { ...added, description }))
    }
    case 'listAssets':
      return (await listAssets(context, owner)).map(shown)
    case 'showAsset':
      return shown(await showAsset(context, owner, command.asset))
    case 'removeAsset':
      return shown(await removeAsset(context, owner, command.asset))
    case 'locateAsset': {
      const { asset: found, path } = await locateAsset(context, owner, command.reference)
      return { ...shown(found), path }
    }
    case 'exportAsset':
      return shown(await exportAsset(context, owner, command.asset, command.path))
    default:
      throw new Error(`no command: ${JSON.stringify(command satisfies never)}`)
  }
}

function entryOf(asset: Asset, account: string): AssetEntry {
  const {
    accountId: _,
    uploadKey: _key,
    uploadHash: _hash,
    readyAt: _ready,
    expiresAt: _at,
    deletedAt: _gone,
    ...rest
  } = asset
  return { ...rest, account, createdAt: asset.createdAt.toISOString() }
}
