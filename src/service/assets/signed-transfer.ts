// Permission to move one asset's bytes, which whoever holds it may use until it expires: a URL's signature for plain PUT
// and GET, and credentials in the manner of Amazon's STS for the S3 protocol.
import { createHmac, timingSafeEqual } from 'node:crypto'
import { AppError } from '../../errors.ts'
import type { SigningKey } from './deployment-secret.ts'

/** What a signed URL allows. */
export type Transfer = {
  readonly method: 'PUT' | 'GET'
  readonly assetId: string
  /** Unix time, in seconds. */
  readonly expires: number
  /** Bytes that may be sent; 0 for GET. */
  readonly limit: number
}

/** The signature of a URL. */
export function signTransfer(key: SigningKey, { method, assetId, expires, limit }: Transfer): string {
  return createHmac('sha256', key).update([method, assetId, expires, limit].join('\n')).digest('hex')
}

/** Throws `forbidden` for a transfer that has expired or was not signed so. */
export function checkTransfer(key: SigningKey, transfer: Transfer, signature: string, now: Date): void {
  if (!sameText(signTransfer(key, transfer), signature))
    throw new AppError('forbidden', 'the signature does not fit this URL and method')
  if (transfer.expires * 1000 <= now.getTime())
    throw new AppError('forbidden', 'the URL has expired; ask for the asset to get another')
}

/** Credentials for the S3 protocol; good for one asset until they expire. */
export type SessionCredentials = {
  readonly accessKeyId: string
  readonly secretAccessKey: string
  readonly sessionToken: string
}

/** What a session token allows. */
export type Session = SessionCredentials & { readonly assetId: string }

/** Make credentials for one asset. */
export function issueSession(key: SigningKey, assetId: string, expires: number): SessionCredentials {
  const told = `${assetId}.${expires}`
  return {
    accessKeyId: `SEPIA${assetId.slice(-16).toUpperCase()}`,
    secretAccessKey: hex(key, `secret\n${told}`),
    sessionToken: `${told}.${hex(key, `token\n${told}`)}`,
  }
}

/** What a session token stands for. Throws `forbidden` for one that was not issued here or has expired. */
export function openSession(key: SigningKey, token: string, now: Date): Session {
  const [assetId, expiresText = '', signature = '', ...rest] = token.split('.')
  const expires = Number(expiresText)
  const told = `${assetId}.${expires}`
  if (rest.length > 0 || !sameText(hex(key, `token\n${told}`), signature))
    throw new AppError('forbidden', 'the session token was not issued by this server')
  if (expires * 1000 <= now.getTime())
    throw new AppError('forbidden', 'the session token has expired; ask for the asset to get another')
  return { assetId, ...issueSession(key, assetId, expires) }
}

/** Compare in a time that tells nothing. */
export function sameText(expected: string, given: string): boolean {
  const [a, b] = [Buffer.from(expected), Buffer.from(given)]
  return a.length === b.length && timingSafeEqual(a, b)
}

const hex = (key: SigningKey, text: string): string => createHmac('sha256', key).update(text).digest('hex')
