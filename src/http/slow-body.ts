// How long a client may take to send a body. Node's own limit knows no routes, and an upload may take hours as long as
// something comes.
import type { FastifyRequest } from 'fastify'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The route takes its body as a stream, and watches it itself. */
    upload?: boolean
  }
}

/** Call `late` when the request's body is not there in time; routes that take uploads are left alone. */
export function limitBodyTime({ raw, routeOptions }: FastifyRequest, timeMs: number, late: () => void): void {
  const hasBody = Number(raw.headers['content-length'] ?? 0) > 0 || raw.headers['transfer-encoding'] !== undefined
  if (!hasBody || routeOptions.config.upload) return
  const timer = setTimeout(late, timeMs)
  const stop = (): void => clearTimeout(timer)
  raw.once('end', stop).once('close', stop)
}
