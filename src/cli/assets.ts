// `sepia assets`: the library of custom files, of an account or of everybody.
import { mkdir } from 'node:fs/promises'
import path from 'node:path'
import type { AssetEntry } from '#service/admin/asset-commands.ts'
import { assetTypes } from '#service/db/schema.ts'
import type { Config } from '../config.ts'
import { AppError } from '../errors.ts'
import { print, table } from './answer.ts'
import { formatBytes } from './doctor.ts'
import { withLibrary, type LibraryPlace } from './library.ts'
import { oneOf } from './option-values.ts'
import { fetchSource } from './remote-source.ts'
import type { Terminal } from './terminal.ts'

/** Whose assets are meant, as typed. */
export type OwnerOptions = LibraryPlace & { readonly account?: string; readonly public?: boolean }

/** Options of `sepia assets add`, as typed. */
export type AddOptions = OwnerOptions & {
  readonly type: string
  readonly name?: string
  readonly description?: string
}

const defaultAccount = 'default'

/** Add a file, a URL or a repository's file to the library, and print what it was found to be. */
export async function addAsset(source: string, options: AddOptions, config: Config, terminal: Terminal): Promise<void> {
  const type = oneOf('--type', options.type, assetTypes)
  const account = ownerOf(options)
  const fetched = await fetchSource(source, options, config, terminal)
  const name = nameOf(fetched.fileName, options.name)
  const { url, hfRepo, path: file } = fetched
  const command = {
    command: 'addAsset' as const,
    account,
    type,
    name,
    path: file,
    isPublic: account === null,
    ...(options.description !== undefined && { description: options.description }),
    ...(url !== null && { url }),
    ...(hfRepo !== null && { hfRepo }),
  }
  let added: AssetEntry
  try {
    added = await withLibrary(options, config, terminal, (ask) => ask(command))
  } catch (error) {
    // A name that is taken or a server that stops leaves what was fetched for another try; a file that is no good, not.
    if (error instanceof AppError && error.code === 'bad_file') await fetched.remove()
    throw error
  }
  await fetched.remove()
  print(terminal, options.json, added, () => renderReport(added))
}

/** Print the assets of an account, or of the public library. */
export async function listAssets(options: OwnerOptions, config: Config, terminal: Terminal): Promise<void> {
  const account = ownerOf(options)
  const assets = await withLibrary(options, config, terminal, (ask) => ask({ command: 'listAssets', account }))
  print(terminal, options.json, { assets }, () => renderAssets(assets))
}

/** Print what an asset is. */
export async function showAsset(
  asset: string,
  options: OwnerOptions,
  config: Config,
  terminal: Terminal,
): Promise<void> {
  const account = ownerOf(options)
  const found = await withLibrary(options, config, terminal, (ask) => ask({ command: 'showAsset', account, asset }))
  print(terminal, options.json, found, () => renderReport(found))
}

/** Delete an asset and print what it was. */
export async function removeAsset(
  asset: string,
  options: OwnerOptions,
  config: Config,
  terminal: Terminal,
): Promise<void> {
  const account = ownerOf(options)
  const gone = await withLibrary(options, config, terminal, (ask) => ask({ command: 'removeAsset', account, asset }))
  print(terminal, options.json, gone, () => `${gone.name}  removed`)
}

/** Copy an asset's file out of the library and print where it is. */
export async function exportAsset(
  asset: string,
  target: string | undefined,
  options: OwnerOptions,
  config: Config,
  terminal: Terminal,
): Promise<void> {
  const account = ownerOf(options)
  if (target === '') throw new AppError('bad_argument', 'FILE must be a file, got ""')
  const exported = await withLibrary(options, config, terminal, async (ask) => {
    const { name, type } = await ask({ command: 'showAsset', account, asset })
    const file = path.resolve(target ?? `${name}${type === 'file' || type === 'latent' ? '' : '.safetensors'}`)
    await mkdir(path.dirname(file), { recursive: true })
    return { ...(await ask({ command: 'exportAsset', account, asset, path: file })), path: file }
  })
  print(terminal, options.json, exported, () => exported.path)
}

/** Null is the public library. */
function ownerOf(options: OwnerOptions): string | null {
  if (options.public && options.account !== undefined)
    throw new AppError('bad_argument', '--public and --account cannot go together: public assets belong to no account')
  return options.public ? null : (options.account ?? defaultAccount)
}

/** The name that was given, else that of the file without its ending. */
function nameOf(fileName: string, given: string | undefined): string {
  const name = given ?? path.parse(fileName).name
  if (/^[a-zA-Z0-9_-]{1,64}$/.test(name)) return name
  const why = given === undefined ? `; give one, for that of the file is "${name}"` : `, got "${given}"`
  throw new AppError('bad_argument', `--name must be 1 to 64 letters, digits, _ and -${why}`)
}

function renderAssets(assets: readonly AssetEntry[]): string {
  return table(
    ['NAME', 'TYPE', 'STATUS', 'SIZE', 'CREATED', 'ID'],
    assets.map(({ name, type, status, sizeBytes, createdAt, id }) => [
      name,
      type,
      status,
      formatBytes(sizeBytes),
      createdAt,
      id,
    ]),
  )
}

/** What is known of an asset, a line a fact. */
function renderReport(asset: AssetEntry): string {
  const { report, data } = asset
  const facts: (readonly [string, string | number | null | undefined])[] = [
    ['Name', asset.name],
    ['Id', asset.id],
    ['Type', asset.type],
    ['Status', asset.statusDetails === '' ? asset.status : `${asset.status}: ${asset.statusDetails}`],
    ['Public', asset.isPublic ? `yes, as octoai:${asset.name}` : 'no'],
    ['Size', formatBytes(asset.sizeBytes)],
    ['Hash', asset.hash],
    ['From', asset.url ?? asset.hfRepo],
    ['Description', asset.description],
    ['Is', report?.architecture],
    ['Weights', report && `${report.parameters} parameters in ${report.tensors} tensors, ${report.dataType}`],
    ['Upload', report && (report.converted ? `${report.fileFormat}, converted to safetensors` : report.fileFormat)],
    ['Triggers', [...new Set([...data.triggerWords, ...(report?.triggerWords ?? [])])].join(', ')],
    ...(report ? detailsOf(report.details) : []),
    ...(report?.warnings ?? []).map((warning) => ['Warning', warning] as const),
  ]
  const shown = facts.filter(([, value]) => value !== null && value !== undefined && value !== '')
  return shown.map(([label, value]) => `${label.padEnd(13)}${value}`).join('\n')
}

/** What only some kinds of assets have, by its own names. */
function detailsOf(details: NonNullable<AssetEntry['report']>['details']): (readonly [string, string])[] {
  if (details.kind === 'lora') {
    const { baseModel, doraModules, families, modules, rank, tensorsPresent, tensorsUsed } = details
    const counts = (of: Readonly<Record<string, number | undefined>>): string =>
      Object.entries(of)
        .map(([name, count]) => `${name} ${count}`)
        .join(', ')
    return [
      ['Families', counts(families)],
      ['Rank', rank === null ? 'none' : rank.min === rank.max ? `${rank.min}` : `${rank.min} to ${rank.max}`],
      ['Modules', counts(modules)],
      ...(doraModules > 0 ? [['DoRA', `${doraModules} modules`] as const] : []),
      ...(baseModel === null ? [] : [['Made for', baseModel] as const]),
      ['Used', `${tensorsUsed} of ${tensorsPresent} tensors`],
    ]
  }
  const { kind: _, ...others } = details
  return Object.entries(others).map(([name, value]) => [label(name), String(value)])
}

/** latentChannels → Latent channels */
function label(name: string): string {
  const words = name.replaceAll(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)
  return `${words[0].toUpperCase()}${words.slice(1)} `
}
