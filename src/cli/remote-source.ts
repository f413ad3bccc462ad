// What `sepia assets add` is given: a file of this machine, a URL, or a file of a Hugging Face repository; the latter two
// are fetched first, and gone on with where an earlier try ended.
import { createHash } from 'node:crypto'
import { statSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import path from 'node:path'
import { downloadFile, type Download } from '#service/assets/remote/download-file.ts'
import { chooseHubFiles } from '#service/assets/remote/hub-files.ts'
import { openHubRepository, parseHubReference, type HubAccess } from '#service/assets/remote/hub-repository.ts'
import type { FetchRules } from '#service/assets/remote/remote-file.ts'
import type { Config } from '../config.ts'
import { AppError } from '../errors.ts'
import { showDownload } from './download-bar.ts'
import type { Terminal } from './terminal.ts'

/** A file that is on this machine now. */
export type FetchedSource = {
  readonly path: string
  /** As its source calls it. */
  readonly fileName: string
  readonly url: string | null
  readonly hfRepo: string | null
  /** Remove what was fetched; a file of the user's own stays. */
  remove(): Promise<void>
}

/** How a user's own command fetches: from wherever it is told to, for as long as something comes. */
export function ownRules(origin: string, signal: AbortSignal): FetchRules {
  const week = 7 * 24 * 3600 * 1000
  return { allowLoopback: true, trustedOrigin: origin, maxBytes: 2 ** 40, idleMs: 60_000, totalMs: week, signal }
}

/** The user's own access to the hub. */
export function ownHub({ hub }: Config, field: string, signal: AbortSignal): HubAccess {
  return { ...hub, field, rules: ownRules(hub.endpoint, signal) }
}

/** Bring a source to this machine. Throws `not_found`, `bad_argument`, `fetch_failed`, `disk_full`, `cancelled`. */
export async function fetchSource(
  source: string,
  { cache }: { readonly cache?: string | undefined },
  config: Config,
  terminal: Terminal,
): Promise<FetchedSource> {
  const isUrl = /^https?:\/\//i.test(source)
  if (!isUrl && !source.startsWith('hf:')) return ownFile(source)
  const { signal } = terminal
  // By the source, so that a second try goes on with what the first one left.
  const mark = createHash('sha256').update(source).digest('hex').slice(0, 16)
  const folder = path.join(cache === undefined ? config.cacheDir : path.resolve(cache), 'downloads', mark)
  const from = isUrl ? fromUrl(source) : await fromHub(source, config, signal)
  const target = path.join(folder, from.mark)
  const { token } = config.hub
  using bar = showDownload(terminal, from.fileName, from.sizeBytes)
  const download: Download = {
    ...from,
    field: 'SOURCE',
    token: isUrl ? undefined : (token ?? undefined),
    target,
    onProgress: (doneBytes) => bar.update(doneBytes),
  }
  // A file that may have changed since cannot be gone on with.
  if (from.sha256 === null) await rm(`${target}.part`, { force: true })
  await downloadFile(download, ownRules(new URL(from.url).origin, signal))
  return {
    path: target,
    fileName: from.fileName,
    url: isUrl ? source : null,
    hfRepo: isUrl ? null : source.slice('hf:'.length),
    remove: () => rm(folder, { recursive: true, force: true }),
  }
}

function ownFile(source: string): FetchedSource {
  const place = path.resolve(source)
  const found = source === '' ? undefined : statSync(place, { throwIfNoEntry: false })
  if (!found)
    throw new AppError(
      'not_found',
      `SOURCE: there is no file "${source}"; URLs begin with https://, repositories with hf:`,
    )
  if (!found.isFile()) throw new AppError('bad_argument', `SOURCE must be a file, got the folder ${place}`)
  return { path: place, fileName: path.basename(place), url: null, hfRepo: null, remove: () => Promise.resolve() }
}

type Place = Pick<Download, 'url' | 'sizeBytes' | 'sha256'> & { readonly fileName: string; readonly mark: string }

function fromUrl(source: string): Place {
  const url = URL.parse(source)
  if (!url)
    throw new AppError(
      'bad_argument',
      `SOURCE must be a URL such as https://example.com/a.safetensors, got "${source}"`,
    )
  const fileName = path.posix.basename(decodeURIComponent(url.pathname)) || 'download'
  return { url: source, sizeBytes: null, sha256: null, fileName, mark: 'file' }
}

async function fromHub(source: string, config: Config, signal: AbortSignal): Promise<Place> {
  const reference = parseHubReference(source, 'SOURCE')
  const access = ownHub(config, 'SOURCE', signal)
  const repository = await openHubRepository(reference, access)
  const choice = chooseHubFiles(repository, reference, { field: 'SOURCE', variant: null })
  if (choice.layout === 'folder')
    throw new AppError(
      'bad_argument',
      `SOURCE: ${reference.repo} is a folder of several files, and an asset is one; add ":" and the name of a single file, or use "sepia models pull"`,
    )
  const { path: name, sha256, sizeBytes, url } = choice.file
  return { url, sizeBytes, sha256, fileName: path.posix.basename(name), mark: sha256 ?? repository.commit }
}
