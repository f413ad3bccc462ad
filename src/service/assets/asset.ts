// What an asset is: a row, its names, and what its kind allows.
import { TypeID, typeid } from 'typeid-js'
import type { AssetKind } from '#worker/protocol.ts'
import { AppError } from '../../errors.ts'
import type { assets, AssetData, AssetStatus, AssetType } from '../db/schema.ts'

/** One entry of the library, as it lies in the table. */
export type Asset = typeof assets.$inferSelect

/** Engine of everything that is made for Stable Diffusion XL. */
export const sdxlEngine = 'image/stable-diffusion-xl-v1-0'
/** Engine of ControlNets, which are checkpoints. */
export const controlnetEngine = 'image/controlnet-sdxl'

/** All engines that the original knew; most are of models that are not run here. */
export const engineNames = [
  'text/llama-2-7b',
  'text/llama-2-13b',
  'text/llama-2-70b',
  'text/llama-3-8b',
  'text/llama-3-70b',
  'text/codellama-7b',
  'text/codellama-13b',
  'text/codellama-34b',
  'text/codellama-70b',
  'text/mistral-7b',
  'text/mistral-nemo',
  'text/mixtral-8x7b',
  'text/llama-3.1-8b',
  'text/llama-3.1-70b',
  'text/llama-3.1-405b',
  'image/controlnet-sd15',
  controlnetEngine,
  'image/stable-diffusion-v1-5',
  sdxlEngine,
  'image/stable-diffusion-v3-medium',
  'image/stable-diffusion-ssd',
  'image/flux-dev',
  'image/flux-schnell',
  'audio/tortoise-tts',
  'audio/rvc',
  'video/svd',
] as const

/** Name of the account whose public assets are this server's library; references call it `octoai` or `public`. */
export const publicOwner = 'public'
/** What stands for {@link publicOwner} in a reference. */
export const publicAliases: readonly string[] = ['octoai', publicOwner]

const namePattern = /^[a-zA-Z0-9_-]{1,64}$/

/** Give back a name that an asset may have. Throws `bad_argument`. */
export function checkedName(name: string): string {
  // It would be taken for an id.
  if (namePattern.test(name) && !isAssetId(name)) return name
  throw new AppError('bad_argument', `name: 1 to 64 letters, digits, _ and -, and no id, got ${JSON.stringify(name)}`, {
    field: 'name',
  })
}

/** A new asset's id: `asset_` and 26 characters. */
export function newAssetId(): string {
  return typeid('asset').toString()
}

/** Whether a text has the form of an asset's id. */
export function isAssetId(text: string): boolean {
  return /^asset_[0-7][0-9a-hjkmnp-tv-z]{25}$/.test(text)
}

/** What an engine process has to look for in an asset; null for what no engine reads. */
export function inspectedKind(type: AssetType, { engine }: Pick<AssetData, 'engine'>): AssetKind | null {
  switch (type) {
    case 'file':
    case 'latent':
      return null
    case 'checkpoint':
      return engine === controlnetEngine ? 'controlnet' : 'checkpoint'
    case 'lora':
    case 'textual_inversion':
    case 'vae':
      return type
    default:
      throw new Error(`no asset: ${JSON.stringify(type satisfies never)}`)
  }
}

/** The owner of an asset in the spelling of the original. */
export function tenantUuid({ accountId }: Pick<Asset, 'accountId'>): string {
  return TypeID.fromString(accountId).toUUID()
}

const gib = 2 ** 30
const largest: Readonly<Record<AssetType, number>> = {
  file: gib / 16,
  latent: gib / 16,
  textual_inversion: gib / 16,
  vae: 2 * gib,
  lora: 16 * gib,
  checkpoint: 32 * gib,
}

/** How large the file of an asset may be. */
export function uploadLimitBytes(type: AssetType): number {
  return largest[type]
}

/** States in which bytes are still awaited. */
export const openStatuses: readonly AssetStatus[] = ['ready_to_upload', 'uploading']

/** Key in the file store for a new upload; it is never used twice. */
export function newBlobKey(): string {
  return `${assetFilesPrefix}${typeid('blob').toString()}`
}

/** All files of assets lie under this prefix. */
export const assetFilesPrefix = 'assets/'
