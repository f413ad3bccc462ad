// A worker's numbers, for Prometheus: a worker answers nothing else.
import { createHash, timingSafeEqual } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { AppError } from '../errors.ts'
import type { Logger } from '../logger.ts'
import type { Metrics } from './metrics.ts'

/** Where to answer, and what to ask for. */
export type MetricsPlace = {
  readonly host: string
  /** 0 takes a free one. */
  readonly port: number
  /** Null: everybody may read; the caller sees to it that only this machine can. */
  readonly token: string | null
}

/** Answer GET /metrics until disposal. Throws `bad_argument` where the address cannot be used. */
export async function serveMetrics(
  metrics: Pick<Metrics, 'scrape'>,
  { host, port, token }: MetricsPlace,
  log: Logger,
): Promise<AsyncDisposable & { readonly port: number }> {
  const server = createServer(async (request, response) => {
    response.setHeader('x-content-type-options', 'nosniff')
    if (request.method !== 'GET' || request.url !== '/metrics') {
      response.writeHead(404).end()
      return
    }
    if (token !== null && !hasToken(request, token)) {
      response.writeHead(401).end()
      return
    }
    try {
      const { contentType, text } = await metrics.scrape()
      response.writeHead(200, { 'content-type': contentType }).end(text)
    } catch (error) {
      log.error({ err: error }, 'the numbers could not be read')
      response.writeHead(503).end()
    }
  })
  try {
    server.listen(port, host)
    await once(server, 'listening')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new AppError('bad_argument', `metrics: cannot listen at ${host} port ${port} (${code})`, { cause: error })
  }
  return {
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}

function hasToken({ headers }: IncomingMessage, token: string): boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest()
  return timingSafeEqual(digest(headers.authorization ?? ''), digest(`Bearer ${token}`))
}
