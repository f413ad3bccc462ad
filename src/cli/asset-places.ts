// Where a file of one's own lies that was named on the command line: the path itself, a model that was pulled into the
// data folder, an asset of the library there, or an example that ships with Sepia.
import { statSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import type { AssetKind } from '#engine/weights/asset-report.ts'
import type { Config } from '../config.ts'
import { AppError } from '../errors.ts'

/** Which data folder is meant. */
export type LibraryOptions = { readonly data?: string }

/** What is looked for, and for which option. */
export type AssetQuery = {
  readonly option: string
  readonly kind: Exclude<AssetKind, 'controlnet'>
  readonly reference: string
}

/** The folder of the examples that ship with Sepia: a folder a kind, files by their names. */
export const shippedAssets = fileURLToPath(new URL('../../models/public', import.meta.url))

/** A name of the library, with or without its owner. */
const namePattern = /^(?:([a-zA-Z0-9_-]{1,64}):)?([a-zA-Z0-9_-]{1,64})$/
/** Owners whose names are those of the public library. */
const publicOwners: ReadonlySet<string> = new Set(['octoai', 'public'])

/** The models that `sepia models pull` fetched into a data folder. */
export function pulledModels({ data }: LibraryOptions, config: Config): string {
  if (data === '') throw new AppError('bad_argument', '--data must be a folder, got ""')
  return path.join(data === undefined ? config.dataDir : path.resolve(data), 'models')
}

/** The place of the file that a reference names. Throws `not_found`, `bad_argument` for a folder where a file is meant. */
export async function locateAsset(query: AssetQuery, options: LibraryOptions, config: Config): Promise<string> {
  const { option, reference } = query
  const found = statSync(reference, { throwIfNoEntry: false })
  if (found?.isFile()) return path.resolve(reference)
  const place = await findNamed(query, options, config)
  if (place !== null) return place
  if (found) throw new AppError('bad_argument', `${option} must name a file, got the folder ${path.resolve(reference)}`)
  throw new AppError('not_found', `${option}: there is no file "${reference}", and no asset of that name`)
}

/** The place of a model: that of a name where nothing of that name lies here, else the text itself, to be looked at later. */
export async function locateModel(
  option: string,
  text: string,
  options: LibraryOptions,
  config: Config,
): Promise<string> {
  if (statSync(text, { throwIfNoEntry: false })) return text
  return (await findNamed({ option, kind: 'checkpoint', reference: text }, options, config)) ?? text
}

async function findNamed(query: AssetQuery, options: LibraryOptions, config: Config): Promise<string | null> {
  const { kind, reference } = query
  const [, owner, name] = namePattern.exec(reference) ?? []
  if (name === undefined) return null
  if (owner === undefined && (kind === 'checkpoint' || kind === 'vae')) {
    const pulled = pulledModel(name, pulledModels(options, config))
    if (pulled !== null) return pulled
  }
  const stored = await storedAsset(query, options, config)
  if (stored !== null) return stored
  if (owner !== undefined && !publicOwners.has(owner)) return null
  const shipped = path.join(shippedAssets, kind, `${name}.safetensors`)
  return statSync(shipped, { throwIfNoEntry: false }) ? shipped : null
}

/** The file of an asset of the account "default" or of the public library, where there is a library. */
async function storedAsset(
  { kind, option, reference }: AssetQuery,
  { data }: LibraryOptions,
  config: Config,
): Promise<string | null> {
  // The library's libraries are loaded only by who has one.
  const dataDir = data === undefined ? config.dataDir : path.resolve(data)
  if (config.databaseUrl === null && !statSync(path.join(dataDir, 'database'), { throwIfNoEntry: false })) return null
  const { findInLibrary } = await import('./library-lookup.ts')
  const found = await findInLibrary(reference, { data }, config)
  if (found !== null && found.type !== kind)
    throw new AppError('bad_argument', `${option}: the asset "${reference}" is a ${found.type}, not a ${kind}`)
  return found?.path ?? null
}

/** A pulled model of this name: a diffusers folder or a single file. */
function pulledModel(name: string, folder: string): string | null {
  for (const place of [path.join(folder, name), path.join(folder, `${name}.safetensors`)])
    if (statSync(place, { throwIfNoEntry: false })) return place
  return null
}
