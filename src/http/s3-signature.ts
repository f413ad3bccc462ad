// AWS Signature Version 4 in the header Authorization, as S3 reads it: the path is encoded once, not twice.
// https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
import { createHash, createHmac } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { sameText } from '#service/assets/signed-transfer.ts'
import { AppError } from '../errors.ts'

/** What signed a request. */
export type SigningCredentials = { readonly accessKeyId: string; readonly secretAccessKey: string }

/** Clocks may differ by this. */
const skewMs = 15 * 60 * 1000

const authorizationPattern =
  /^AWS4-HMAC-SHA256 +Credential=([^/,\s]{1,128})\/(\d{8})\/([\w-]{1,40})\/(s3)\/aws4_request, *SignedHeaders=([a-z0-9;-]{1,2000}), *Signature=([0-9a-f]{64})$/

/** Throws `forbidden` for a request that was not signed with these credentials, or at another time. */
export function checkSignature(
  request: Pick<IncomingMessage, 'method' | 'url' | 'headers'>,
  credentials: SigningCredentials,
  now: Date,
): void {
  const { headers } = request
  const match = authorizationPattern.exec(headers.authorization ?? '')
  if (!match) throw new AppError('forbidden', 'Authorization must be AWS4-HMAC-SHA256 for the service s3')
  const [, accessKeyId, date, region, service, signedHeaders, signature] = match
  const time = String(headers['x-amz-date'])
  if (!time.startsWith(date)) throw new AppError('forbidden', 'x-amz-date is of another day than the signature')
  checkTime(time, now)
  const names = signedHeaders.split(';')
  const own = Object.keys(headers).filter((name) => name.startsWith('x-amz-'))
  // A header that is not signed could be changed on the way.
  if (!names.includes('host') || own.some((name) => !names.includes(name)))
    throw new AppError('forbidden', 'the signature must cover host and all x-amz- headers')
  const canonical = canonicalRequest(request, names)
  const scope = `${date}/${region}/${service}/aws4_request`
  const text = `AWS4-HMAC-SHA256\n${time}\n${scope}\n${sha256(canonical)}`
  let key: Buffer = hmac(`AWS4${credentials.secretAccessKey}`, date)
  for (const part of [region, service, 'aws4_request']) key = hmac(key, part)
  const expected = hmac(key, text).toString('hex')
  if (accessKeyId !== credentials.accessKeyId || !sameText(expected, signature))
    throw new AppError('forbidden', 'the signature does not fit the request')
}

function checkTime(time: string, now: Date): void {
  const [, year, month, day, hour, minute, second] = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/.exec(time) ?? []
  const signed = Date.parse(`${year}-${month}-${day}T${hour}:${minute}:${second}Z`)
  if (!(Math.abs(signed - now.getTime()) <= skewMs))
    throw new AppError('forbidden', `x-amz-date differs from this server's time, ${now.toISOString()}, by too much`)
}

/** The text that is signed. */
function canonicalRequest(
  { method, url = '/', headers }: Pick<IncomingMessage, 'method' | 'url' | 'headers'>,
  names: readonly string[],
): string {
  const mark = url.indexOf('?')
  const [path, query] = mark === -1 ? [url, ''] : [url.slice(0, mark), url.slice(mark + 1)]
  const lines = names.map((name) => `${name}:${valueOf(headers[name])}\n`).join('')
  const payload = valueOf(headers['x-amz-content-sha256'])
  return [method, encodedPath(path), encodedQuery(query), lines, names.join(';'), payload].join('\n')
}

function encodedPath(path: string): string {
  return path
    .split('/')
    .map((part) => encoded(decoded(part)))
    .join('/')
}

function encodedQuery(query: string): string {
  if (query === '') return ''
  const pairs = query.split('&').map((pair) => {
    const mark = pair.indexOf('=')
    const [name, value] = mark === -1 ? [pair, ''] : [pair.slice(0, mark), pair.slice(mark + 1)]
    return `${encoded(decoded(name))}=${encoded(decoded(value))}`
  })
  return pairs.toSorted().join('&')
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch (error) {
    throw new AppError('forbidden', 'the URL is not encoded as it should be', { cause: error })
  }
}

/** RFC 3986: everything but unreserved characters. */
function encoded(text: string): string {
  return encodeURIComponent(text).replaceAll(
    /[!'()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  )
}

const valueOf = (value: string | readonly string[] | undefined): string =>
  (typeof value === 'string' ? value : (value ?? []).join(',')).trim().replaceAll(/ +/g, ' ')
const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex')
const hmac = (key: string | Buffer, text: string): Buffer => createHmac('sha256', key).update(text).digest()
