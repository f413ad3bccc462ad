// A server on this machine whose answers a test writes itself, plain or by TLS with a certificate of our own.
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type RequestListener } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo } from 'node:net'

/** Key and certificate for files.test, other.test and 127.0.0.1, valid until 2126; of no use anywhere else. */
export const certificate = readFileSync(new URL('./loopback-certificate.pem', import.meta.url), 'utf8')

/** A running server, and what it was asked so far. */
export type FileServer = AsyncDisposable & {
  readonly port: number
  /** Such as http://127.0.0.1:4711 */
  readonly origin: string
  readonly asked: readonly IncomingMessage[]
}

/** Start a server; disposal cuts its connections. */
export async function startFileServer(answer: RequestListener, options: { tls?: boolean } = {}): Promise<FileServer> {
  const asked: IncomingMessage[] = []
  const listener: RequestListener = (incoming, response) => {
    asked.push(incoming)
    // Whoever hangs up in the middle is the other side's business.
    response.on('error', () => {})
    answer(incoming, response)
  }
  const server = options.tls
    ? createTlsServer({ key: certificate, cert: certificate }, listener)
    : createServer(listener)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return {
    port,
    origin: `${options.tls ? 'https' : 'http'}://127.0.0.1:${port}`,
    asked,
    [Symbol.asyncDispose]: async () => {
      server.close()
      server.closeAllConnections()
      if (server.listening) await once(server, 'close')
    },
  }
}
