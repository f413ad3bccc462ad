// `sepia models`: checkpoints of Hugging Face repositories in the data folder, where `--model NAME` finds them.
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { downloadFile } from '#service/assets/remote/download-file.ts'
import { chooseHubFiles, type HubChoice } from '#service/assets/remote/hub-files.ts'
import { openHubRepository, parseHubReference, type HubFile } from '#service/assets/remote/hub-repository.ts'
import type { Config } from '../config.ts'
import { AppError } from '../errors.ts'
import { print, table } from './answer.ts'
import { pulledModels, type LibraryOptions } from './asset-places.ts'
import { formatBytes } from './doctor.ts'
import { showDownload } from './download-bar.ts'
import { ownHub } from './remote-source.ts'
import type { Terminal } from './terminal.ts'

/** Options of all commands about models, as typed. */
export type ModelsOptions = LibraryOptions & { readonly json?: boolean }

/** Options of `sepia models pull`, as typed. */
export type PullOptions = ModelsOptions & { readonly file?: string; readonly name?: string; readonly variant?: string }

/** Where a model came from; kept beside it. */
type Origin = { readonly repo: string; readonly commit: string; readonly files: readonly string[] }

/** A pulled model. */
type PulledModel = Partial<Origin> & { readonly name: string; readonly path: string; readonly sizeBytes: number }

const originFile = (folder: string, name: string): string => path.join(folder, '.origin', `${name}.json`)

/**
 * Fetch a model of a repository, or finish an earlier try, and print where it is. Throws `bad_argument`, `fetch_failed`,
 * `bad_file`, `disk_full`, `cancelled`.
 */
export async function pullModel(
  source: string,
  options: PullOptions,
  config: Config,
  terminal: Terminal,
): Promise<void> {
  // 1. what is meant
  const parsed = parseHubReference(source, 'REPO')
  if (parsed.file !== null && options.file !== undefined)
    throw new AppError('bad_argument', `--file and ":${parsed.file}" name two files; only one can be meant`)
  const reference = { ...parsed, file: parsed.file ?? options.file ?? null }
  const folder = pulledModels(options, config)
  const access = ownHub(config, 'REPO', terminal.signal)
  const repository = await openHubRepository(reference, access)
  const variant = options.variant ?? null
  const choice = chooseHubFiles(repository, reference, { field: 'REPO', variant })
  if (choice.layout === 'file' && !choice.file.path.endsWith('.safetensors'))
    throw new AppError(
      'bad_argument',
      `REPO: ${choice.file.path} is no safetensors file; "sepia assets add" converts other formats`,
    )
  const name = nameOf(reference.repo, choice, options.name)
  const files = choice.layout === 'file' ? [choice.file] : choice.files
  const origin: Origin = { repo: reference.repo, commit: repository.commit, files: files.map((file) => file.path) }
  const target = path.join(folder, choice.layout === 'file' ? `${name}.safetensors` : name)

  // 2. its files, into a folder of this commit's
  const isThere = await isSameModel(folder, name, target, origin)
  if (!isThere) {
    const partial = path.join(folder, '.partial', `${name}-${repository.commit.slice(0, 16)}`)
    for (const [index, file] of files.entries()) {
      const label = files.length === 1 ? file.path : `${file.path} (${index + 1} of ${files.length})`
      await fetchFile(file, { label, place: insideOf(partial, file.path), access, terminal })
    }
    const complete = choice.layout === 'file' ? insideOf(partial, choice.file.path) : partial
    await rename(complete, target)
    await rm(partial, { recursive: true, force: true })
    await mkdir(path.dirname(originFile(folder, name)), { recursive: true })
    await writeFile(originFile(folder, name), JSON.stringify(origin))
  }

  // 3. what there is to tell
  const sizeBytes = files.reduce((sum, file) => sum + file.sizeBytes, 0)
  const pulled = { name, path: target, sizeBytes, repo: origin.repo, commit: origin.commit }
  const words = isThere ? 'is there already' : `fetched, ${formatBytes(sizeBytes)}`
  print(terminal, options.json, pulled, () => `${target}  ${words}; use it as --model ${name}`)
}

/** Print the models that were pulled. */
export async function listModels(options: ModelsOptions, config: Config, terminal: Terminal): Promise<void> {
  const folder = pulledModels(options, config)
  const models: PulledModel[] = []
  for (const entry of await entriesOf(folder)) {
    if (entry.startsWith('.')) continue
    const place = path.join(folder, entry)
    const name = path.parse(entry).ext === '' ? entry : path.parse(entry).name
    models.push({ name, path: place, sizeBytes: await sizeOf(place), ...(await originOf(folder, name)) })
  }
  print(terminal, options.json, { models }, () =>
    table(
      ['NAME', 'SIZE', 'FROM', 'PATH'],
      models.map((model) => {
        const from = model.repo === undefined ? '' : `${model.repo}@${model.commit?.slice(0, 12)}`
        return [model.name, formatBytes(model.sizeBytes), from, model.path]
      }),
    ),
  )
}

type Fetch = {
  readonly label: string
  readonly place: string
  readonly access: ReturnType<typeof ownHub>
  readonly terminal: Terminal
}

async function fetchFile(
  { sha256, sizeBytes, url }: HubFile,
  { access, label, place, terminal }: Fetch,
): Promise<void> {
  // Complete files of an earlier try were believed then.
  const there = await stat(place).catch(absent)
  if (there?.size === sizeBytes) return
  using bar = showDownload(terminal, label, sizeBytes)
  const token = access.token ?? undefined
  const onProgress = (doneBytes: number): void => bar.update(doneBytes)
  await downloadFile({ url, field: 'REPO', token, sizeBytes, sha256, target: place, onProgress }, access.rules)
}

/** The name that was given, else the single file's, else the repository's. */
function nameOf(repo: string, choice: HubChoice, given: string | undefined): string {
  const fallback = choice.layout === 'file' ? path.parse(choice.file.path).name : repo.split('/')[1]
  const name = given ?? fallback.replaceAll('.', '-')
  if (/^[a-zA-Z0-9_-]{1,64}$/.test(name)) return name
  throw new AppError('bad_argument', `--name must be 1 to 64 letters, digits, _ and -, got "${name}"`)
}

/** Whether the model is there already. Throws `bad_argument` where something else has its name. */
async function isSameModel(folder: string, name: string, target: string, origin: Origin): Promise<boolean> {
  const taken = (await entriesOf(folder)).find((entry) => entry === name || path.parse(entry).name === name)
  if (taken === undefined) return false
  const known = await originOf(folder, name)
  if (path.join(folder, taken) === target && JSON.stringify(known) === JSON.stringify(origin)) return true
  const from = known?.repo === undefined ? 'something else' : `${known.repo} at ${known.commit?.slice(0, 12)}`
  throw new AppError(
    'bad_argument',
    `${path.join(folder, taken)} is there already and comes from ${from}; remove it, or give another --name`,
  )
}

async function originOf(folder: string, name: string): Promise<Partial<Origin> | null> {
  const text = await readFile(originFile(folder, name), 'utf8').catch(absent)
  return text === null ? null : (JSON.parse(text) as Origin)
}

async function entriesOf(folder: string): Promise<readonly string[]> {
  return (await readdir(folder).catch(absent)) ?? []
}

async function sizeOf(place: string): Promise<number> {
  const found = await stat(place)
  if (found.isFile()) return found.size
  let sizeBytes = 0
  for (const entry of await readdir(place, { recursive: true, withFileTypes: true }))
    if (entry.isFile()) sizeBytes += (await stat(path.join(entry.parentPath, entry.name))).size
  return sizeBytes
}

/** A path of a repository below our folder. Throws `bad_argument` for one that leads out of it. */
function insideOf(folder: string, name: string): string {
  const place = path.join(folder, name)
  if (!place.startsWith(folder + path.sep) || name.includes('\\'))
    throw new AppError('bad_argument', `REPO: has a file with an impossible name, ${JSON.stringify(name)}`)
  return place
}

/** Null for what is not there. */
function absent(error: NodeJS.ErrnoException): null {
  if (error.code === 'ENOENT') return null
  throw error
}
