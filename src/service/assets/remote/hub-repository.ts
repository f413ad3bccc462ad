// A repository of the Hugging Face hub, or of a server that speaks as it does: which files it has. Requests go through our
// own fetch with its rules, as do the files themselves.
import { buffer } from 'node:stream/consumers'
import { HubApiError, listFiles, modelInfo } from '@huggingface/hub'
import { AppError } from '../../../errors.ts'
import { failed, openRemote, type FetchRules } from './remote-file.ts'

/** A repository as it is written: `OWNER/NAME[@REVISION][:FILE]`. */
export type HubReference = {
  readonly repo: string
  /** `main` where none is given. */
  readonly revision: string
  /** The one file that is meant; null where the repository tells which. */
  readonly file: string | null
}

/** How to reach a hub. */
export type HubAccess = {
  /** Origin, such as https://huggingface.co; the operator named it, so it may lie in a private network. */
  readonly endpoint: string
  readonly token: string | null
  readonly rules: FetchRules
  /** Names the input in errors. */
  readonly field: string
}

/** One file of a repository. */
export type HubFile = {
  readonly path: string
  readonly sizeBytes: number
  /** What the hub says that the content hashes to; null for small files, which it keeps otherwise. */
  readonly sha256: string | null
  readonly url: string
}

/** A repository at one commit. */
export type HubRepository = { readonly repo: string; readonly commit: string; readonly files: readonly HubFile[] }

const pattern = /^(?:hf:)?([\w.-]{1,96}\/[\w.-]{1,96})(?:@([\w./-]{1,128}))?(?::([^:\0]{1,256}))?$/
/** Files whose list is longer belong to no model. */
const longestList = 10_000
/** Largest answer about a repository, in bytes. */
const largestAnswer = 16 * 2 ** 20

/** Read `OWNER/NAME[@REVISION][:FILE]`, with or without `hf:`. Throws `bad_argument`. */
export function parseHubReference(text: string, field: string): HubReference {
  const match = pattern.exec(text)
  if (!match || match[1].includes('..') || match[2]?.includes('..'))
    throw new AppError('bad_argument', `${field} must be OWNER/REPOSITORY[@REVISION][:FILE], got "${text}"`, { field })
  return { repo: match[1], revision: match[2] ?? 'main', file: match[3] ?? null }
}

/** The files of a repository, at the commit that the revision stands for now. Throws `not_found`, `fetch_failed`. */
export async function openHubRepository(reference: HubReference, access: HubAccess): Promise<HubRepository> {
  const { endpoint, field } = access
  const params = { hubUrl: endpoint, fetch: guardedFetch(access) }
  const { repo } = reference
  try {
    const { sha } = await modelInfo({ ...params, name: repo, revision: reference.revision, additionalFields: ['sha'] })
    if (!/^[0-9a-f]{40,64}$/.test(sha)) throw failed(field, 'its server names no commit')
    const files: HubFile[] = []
    for await (const file of listFiles({
      ...params,
      repo: { type: 'model', name: repo },
      revision: sha,
      recursive: true,
    })) {
      if (file.type !== 'file') continue
      if (files.length === longestList) throw failed(field, `the repository has more than ${longestList} files`)
      files.push({
        path: file.path,
        sizeBytes: file.lfs?.size ?? file.size,
        sha256: file.lfs && /^[0-9a-f]{64}$/.test(file.lfs.oid) ? file.lfs.oid : null,
        url: `${endpoint}/${repo}/resolve/${sha}/${file.path.split('/').map(encodeURIComponent).join('/')}`,
      })
    }
    return { repo, commit: sha, files }
  } catch (error) {
    throw asFetchError(error, reference, field)
  }
}

/** The package's requests through our own rules: the API's answers are small. */
function guardedFetch({ endpoint, field, rules, token }: HubAccess): typeof fetch {
  return async (input, init) => {
    const url = input instanceof Request ? input.url : String(input)
    const method = init?.method === 'HEAD' || init?.method === 'POST' ? init.method : 'GET'
    const headers = Object.fromEntries(new Headers(init?.headers))
    const body = typeof init?.body === 'string' ? init.body : undefined
    const request = { url, field, token: token ?? undefined, method, headers, body } as const
    await using file = await openRemote(request, { ...rules, maxBytes: largestAnswer, trustedOrigin: endpoint })
    const bytes = method === 'HEAD' ? null : new Uint8Array(await buffer(file.body))
    const response = new Response(bytes, { status: file.status, headers: headersOf(file.headers) })
    // The package reads links to further pages relative to it.
    Object.defineProperty(response, 'url', { value: file.url })
    return response
  }
}

function headersOf(headers: NodeJS.Dict<string | string[]>): Headers {
  const found = new Headers()
  for (const [name, value] of Object.entries(headers)) if (value !== undefined) found.set(name, String(value))
  return found
}

function asFetchError(error: unknown, { repo, revision }: HubReference, field: string): unknown {
  if (!(error instanceof HubApiError)) return error
  // The hub answers 401 for what is not there as well, so that nobody learns of what is private.
  if ([401, 403, 404].includes(error.statusCode))
    return new AppError(
      'fetch_failed',
      `${field}: there is no repository ${repo} at ${revision}, or a token is needed`,
      {
        field,
        cause: error,
      },
    )
  return failed(field, `its server answered with status ${error.statusCode}`, error)
}
