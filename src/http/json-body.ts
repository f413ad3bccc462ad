// The only body that is taken: JSON, in UTF-8, within its cap.
import type { FastifyRequest } from 'fastify'
import { AppError } from '../errors.ts'
import type { HttpServer } from './context.ts'
import { InvalidRequest } from './error-reply.ts'
import { asyncLimitBytes, wantsAsync } from './request-headers.ts'

/** Bytes that a body may have. */
export const bodyLimitBytes = 64 * 2 ** 20

/** Teach the server to read JSON and nothing else. */
export function acceptJsonOnly(server: HttpServer): void {
  const parse = server.getDefaultJsonParser('error', 'error')
  server.removeAllContentTypeParsers()
  server.addContentTypeParser('application/json', { parseAs: 'buffer' }, (request, body: Buffer, done) => {
    // Official clients send this content type on GET and DELETE too, without a body; where one is needed, its schema says.
    if (body.length === 0) return done(null, undefined)
    try {
      requireAsyncLimit(request, body.length)
      return parse(request, decodeUtf8(body), (error, value: unknown) =>
        done(error && invalidJson(error.message), value),
      )
    } catch (error) {
      return done(error as Error)
    }
  })
}

/** Refuse an asynchronous request by the length that it announces, or by the one that it has. Throws `too_large`. */
export function requireAsyncLimit(request: FastifyRequest, lengthBytes: number): void {
  if (wantsAsync(request.headers) && lengthBytes > asyncLimitBytes)
    throw new AppError(
      'too_large',
      `the body of an asynchronous request may have ${asyncLimitBytes / 1e6} MB, this one has ${(lengthBytes / 1e6).toFixed(1)} MB`,
    )
}

const utf8 = new TextDecoder('utf-8', { fatal: true })

function decodeUtf8(body: Buffer): string {
  try {
    return utf8.decode(body)
  } catch (error) {
    throw invalidJson('it is not encoded as UTF-8', error)
  }
}

function invalidJson(why: string, cause?: unknown): InvalidRequest {
  const line = why.replaceAll(/\s+/g, ' ').slice(0, 200)
  const error = new InvalidRequest([{ loc: ['body'], msg: `the body is no valid JSON: ${line}`, type: 'json_invalid' }])
  error.cause = cause
  return error
}
