// What requests say in headers about how they want to be answered.
import { createHash } from 'node:crypto'
import type { IncomingHttpHeaders } from 'node:http'
import { InvalidRequest } from './error-reply.ts'

/** Bytes that the body of an asynchronous request may have. */
export const asyncLimitBytes = 10_000_000

/** Whether the answer is to be fetched later. Official clients send the header empty when it is not. */
export function wantsAsync(headers: IncomingHttpHeaders): boolean {
  const value = headers['x-octoai-async']
  return typeof value === 'string' && ['1', 'true'].includes(value.trim().toLowerCase())
}

/** The request's idempotency key with a hash of what is asked, or null. Throws InvalidRequest for a malformed key. */
export function idempotencyOf(
  headers: IncomingHttpHeaders,
  route: string,
  body: unknown,
): { key: string; bodyHash: Uint8Array } | null {
  const given = headers['idempotency-key']
  const key = typeof given === 'string' ? given.trim() : given?.join()
  if (key === undefined || key === '') return null
  if (!/^[\x21-\x7e]{1,255}$/.test(key)) {
    const msg = 'Idempotency-Key must be 1 to 255 printable ASCII characters without spaces'
    throw new InvalidRequest([{ loc: ['header', 'Idempotency-Key'], msg, type: 'value_error' }])
  }
  return { key, bodyHash: createHash('sha256').update(canonicalJson({ route, body })).digest() }
}

/** JSON in which neither the order of keys nor the spelling of values that mean the same makes a difference. */
function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_key, inner: unknown) => {
    if (inner instanceof Uint8Array) return createHash('sha256').update(inner).digest('hex')
    if (typeof inner !== 'object' || inner === null || Array.isArray(inner)) return inner
    return Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
  })
}
