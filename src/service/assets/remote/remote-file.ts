// A file at a URL that a stranger named. What is checked is what is dialled: the address in the lookup of the very socket,
// again at each redirect. Errors say nothing that would tell a stranger about the network in here.
import { lookup as systemLookup, type LookupAddress } from 'node:dns'
import { Agent as HttpAgent, request as httpRequest, type IncomingMessage, type RequestOptions } from 'node:http'
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https'
import { isIP, type LookupFunction } from 'node:net'
import { AppError } from '../../../errors.ts'
import { isLoopbackAddress, isPublicAddress } from './public-address.ts'

/** Whom a fetch may speak to, and how long it may take. */
export type FetchRules = {
  /** Whether this machine's own servers may be named, also by http: for trials and tests. */
  readonly allowLoopback: boolean
  /** An origin that the operator named, which may lie in a private network or speak http. */
  readonly trustedOrigin?: string | undefined
  readonly maxBytes: number
  /** How long nothing may come. */
  readonly idleMs: number
  /** How long all of it may take. */
  readonly totalMs: number
  readonly signal?: AbortSignal | undefined
  /** In place of the system's lookup of names. */
  readonly lookup?: ((host: string) => Promise<readonly LookupAddress[]>) | undefined
  /** Certificates to trust in place of the usual ones, in PEM. */
  readonly ca?: string | undefined
}

/** What is asked of a server. */
export type RemoteRequest = {
  readonly url: string
  /** Names the input in errors. */
  readonly field: string
  /** A bearer token for the URL's own origin; redirects to another one go without. */
  readonly token?: string | undefined
  /** Where to begin, for what was fetched in part before. */
  readonly fromByte?: number | undefined
  readonly method?: 'GET' | 'HEAD' | 'POST'
  readonly headers?: Readonly<Record<string, string>> | undefined
  readonly body?: string | undefined
}

/** An answer whose body has yet to be read. Disposal ends the connection. */
export type RemoteFile = AsyncDisposable & {
  /** Where it came from in the end. */
  readonly url: string
  readonly status: number
  readonly headers: IncomingMessage['headers']
  /** What the server says that will come; null where it does not. */
  readonly sizeBytes: number | null
  /** At most the rules' number of bytes, and as many as the server said, or an error. */
  readonly body: AsyncIterable<Uint8Array>
}

const redirectLimit = 5
const redirects: ReadonlySet<number> = new Set([301, 302, 303, 307, 308])
const userAgent = 'sepia'

/**
 * Ask for a file, following redirects. Throws `bad_argument` for a URL that may not be named and `fetch_failed` for
 * everything that goes wrong on the way; a status other than 200 (or 206 for a part) is left to the caller.
 */
export async function openRemote(request: RemoteRequest, rules: FetchRules): Promise<RemoteFile> {
  const { field } = request
  const deadline = AbortSignal.timeout(rules.totalMs)
  const signal = rules.signal ? AbortSignal.any([deadline, rules.signal]) : deadline
  let url = checkedUrl(request.url, field, rules)
  const { origin } = url
  for (let hops = 0; hops <= redirectLimit; hops++) {
    const response = await ask(
      url,
      { ...request, token: url.origin === origin ? request.token : undefined },
      rules,
      signal,
    )
    const { statusCode = 0, headers } = response
    if (!redirects.has(statusCode)) return remoteFile(response, url, request, rules, signal)
    response.destroy()
    const next = headers.location === undefined ? null : URL.parse(headers.location, url.href)
    if (next === null) throw failed(field, 'its server sends elsewhere without saying where')
    // A password in a redirect is its author's, not ours to send.
    next.username = ''
    next.password = ''
    url = checkedUrl(next.href, field, rules)
  }
  throw failed(field, `it was redirected more than ${redirectLimit} times`)
}

function checkedUrl(text: string, field: string, { allowLoopback, trustedOrigin }: FetchRules): URL {
  const refuse = (why: string): AppError => new AppError('bad_argument', `${field} ${why}`, { field })
  const url = URL.parse(text)
  if (url === null) throw refuse('must be a URL such as https://example.com/model.safetensors')
  if (url.origin !== trustedOrigin && url.protocol !== 'https:' && !(allowLoopback && url.protocol === 'http:'))
    throw refuse('must begin with https://, and so must where it redirects to')
  if (url.username !== '' || url.password !== '') throw refuse('must have no user name and no password in it')
  return url
}

/** One request to one server; resolves when its headers are there. */
async function ask(url: URL, request: RemoteRequest, rules: FetchRules, signal: AbortSignal): Promise<IncomingMessage> {
  const { body, field, fromByte, headers, method = 'GET', token } = request
  const isAllowed = allowedAddress(url, rules)
  const host = url.hostname.replace(/^\[|\]$/g, '')
  // Sockets do not look up what is an address already.
  if (isIP(host) !== 0 && !isAllowed(host)) throw unreachable(field)
  const isTls = url.protocol === 'https:'
  const options: RequestOptions = {
    method,
    signal,
    // A connection of its own, so that none is reused that was dialled under other rules.
    agent: isTls ? new HttpsAgent({ keepAlive: false, ca: rules.ca }) : new HttpAgent({ keepAlive: false }),
    lookup: lookupOf(rules, isAllowed),
    headers: {
      'user-agent': userAgent,
      // Bytes as they are: a packed answer could be a thousand times as large as it seems.
      'accept-encoding': 'identity',
      ...headers,
      ...(token !== undefined && { authorization: `Bearer ${token}` }),
      ...(fromByte !== undefined && fromByte > 0 && { range: `bytes=${fromByte}-` }),
      ...(body !== undefined && { 'content-length': String(Buffer.byteLength(body)) }),
    },
  }
  try {
    return await new Promise((resolve, reject) => {
      const outgoing = (isTls ? httpsRequest : httpRequest)(url, options)
      outgoing.setTimeout(rules.idleMs, () => outgoing.destroy(new Error('nothing came')))
      outgoing.once('response', resolve).once('error', reject).end(body)
    })
  } catch (error) {
    if (rules.signal?.aborted) throw new AppError('cancelled', 'cancelled', { cause: error })
    throw unreachable(field, error)
  }
}

/** Which addresses may be dialled for a URL. */
function allowedAddress(url: URL, { allowLoopback, trustedOrigin }: FetchRules): (address: string) => boolean {
  if (url.origin === trustedOrigin) return () => true
  // Without encryption there is only this machine.
  if (url.protocol !== 'https:') return isLoopbackAddress
  return (address) => isPublicAddress(address) || (allowLoopback && isLoopbackAddress(address))
}

/** The socket's lookup: names are looked up once, and one wrong address among several is refused as a whole. */
function lookupOf({ lookup }: FetchRules, isAllowed: (address: string) => boolean): LookupFunction {
  return (host, options, callback) => {
    const answer = (error: NodeJS.ErrnoException | null, addresses: readonly LookupAddress[]): void => {
      if (error) return callback(error, '')
      if (addresses.length === 0 || !addresses.every(({ address }) => isAllowed(address)))
        return callback(new Error('an address that may not be dialled'), '')
      if (options.all) return callback(null, [...addresses])
      return callback(null, addresses[0].address, addresses[0].family)
    }
    if (lookup === undefined) systemLookup(host, { all: true }, answer)
    else
      lookup(host).then(
        (addresses) => answer(null, addresses),
        (error: NodeJS.ErrnoException) => answer(error, []),
      )
  }
}

function remoteFile(
  response: IncomingMessage,
  url: URL,
  { field, fromByte = 0, method }: RemoteRequest,
  rules: FetchRules,
  signal: AbortSignal,
): RemoteFile {
  const { headers, statusCode = 0 } = response
  const encoding = headers['content-encoding'] ?? 'identity'
  const length = /^\d{1,15}$/.exec(headers['content-length'] ?? '')
  const sizeBytes = length ? Number(length[0]) : null
  const start = statusCode === 206 ? fromByte : 0
  const refusal =
    encoding === 'identity'
      ? start + (sizeBytes ?? 0) > rules.maxBytes
        ? tooLarge(field, rules)
        : null
      : failed(field, 'its server sends it packed')
  if (refusal && method !== 'HEAD') {
    response.destroy()
    throw refusal
  }
  return {
    url: url.href,
    status: statusCode,
    headers,
    sizeBytes,
    body: read(response, { field, sizeBytes, start, rules, signal }),
    [Symbol.asyncDispose]: () => {
      response.destroy()
      return Promise.resolve()
    },
  }
}

/** The bytes of an answer, counted. */
async function* read(
  response: IncomingMessage,
  expected: {
    readonly field: string
    readonly sizeBytes: number | null
    readonly start: number
    readonly rules: FetchRules
    readonly signal: AbortSignal
  },
): AsyncGenerator<Uint8Array> {
  const { field, rules, sizeBytes, start } = expected
  let doneBytes = 0
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) {
      doneBytes += chunk.length
      if (start + doneBytes > rules.maxBytes) throw tooLarge(field, rules)
      yield chunk
    }
  } catch (error) {
    if (error instanceof AppError) throw error
    if (rules.signal?.aborted) throw new AppError('cancelled', 'cancelled', { cause: error })
    const why = expected.signal.aborted ? 'it takes too long' : 'the connection ended before all of it had come'
    throw failed(field, why, error)
  } finally {
    response.destroy()
  }
  if (sizeBytes !== null && doneBytes !== sizeBytes) throw failed(field, 'its server sent less than it said')
}

/** One sentence for all: which of them it was would tell what there is in here. */
function unreachable(field: string, cause?: unknown): AppError {
  return failed(field, 'its server cannot be reached from here', cause)
}

function tooLarge(field: string, { maxBytes }: FetchRules): AppError {
  return new AppError('too_large', `${field}: the file is larger than ${maxBytes} bytes`, { field })
}

/** The error of a fetch. */
export function failed(field: string, why: string, cause?: unknown): AppError {
  return new AppError('fetch_failed', `${field}: cannot be fetched, ${why}`, { field, cause })
}
