// Browsers on other origins: refused unless the operator names them. There are no cookies, so credentials are never allowed.
import type { FastifyReply, FastifyRequest } from 'fastify'

const allowedHeaders = 'Authorization, Content-Type, Idempotency-Key, X-OctoAI-Async, X-OctoAI-Queue-Dispatch'
const exposedHeaders =
  'X-User-Request-ID, X-Process-Time, X-Sepia-Not-Applied, X-Sepia-Precision, X-Sepia-Backend, Retry-After'

/** Tell the browser of an allowed origin so; true when the request was only its question and is answered by that. */
export function answerOrigin(request: FastifyRequest, reply: FastifyReply, allowed: readonly string[]): boolean {
  if (allowed.length === 0) return false
  reply.header('vary', 'Origin')
  const { origin } = request.headers
  if (origin === undefined || !allowed.includes(origin)) return false
  reply.header('access-control-allow-origin', origin).header('access-control-expose-headers', exposedHeaders)
  if (request.method !== 'OPTIONS' || request.headers['access-control-request-method'] === undefined) return false
  reply
    .header('access-control-allow-methods', 'GET, POST, DELETE')
    .header('access-control-allow-headers', allowedHeaders)
    .header('access-control-max-age', '600')
  return true
}
