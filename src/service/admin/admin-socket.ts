// Administration of a running server: HTTP on a socket in its data folder, which only its owner can open.
import { rm } from 'node:fs/promises'
import { createServer, request, type IncomingMessage, type ServerResponse } from 'node:http'
import { text } from 'node:stream/consumers'
import { AppError, type ErrorDetail } from '../../errors.ts'
import { administer, type Administered, type Administrator } from './admin-command.ts'

/** What goes over the socket as the answer to a command. */
type Reply = { readonly answer: unknown } | { readonly error: ErrorDetail }

const largestCommandBytes = 64 * 1024
/** sun_path of unix(7), 108 bytes on Linux and 104 on BSD and macOS, less the zero at its end. */
const longestPathBytes = 103

/**
 * Listen for commands on a socket with mode 0600 until disposal. The caller holds the data folder's lock, so that a socket
 * that lies there is one of a process that is gone. Throws `bad_argument` for a path that no socket can have.
 */
export async function serveAdmin(administered: Administered, socketPath: string): Promise<AsyncDisposable> {
  const length = Buffer.byteLength(socketPath)
  if (length > longestPathBytes)
    throw new AppError(
      'bad_argument',
      `data folder: a socket's path has at most ${longestPathBytes} bytes, ${socketPath} has ${length}`,
    )
  await rm(socketPath, { force: true })
  const server = createServer((incoming, response) => void reply(administered, incoming, response))
  const listening = new Promise<void>((resolve, reject) => {
    server.once('listening', resolve).once('error', reject)
  })
  // The socket is bound inside this call, so nothing else sees the mask.
  const mask = process.umask(0o177)
  try {
    server.listen(socketPath)
  } finally {
    process.umask(mask)
  }
  await listening
  return {
    [Symbol.asyncDispose]: () =>
      new Promise((resolve, reject) => {
        server.close((error) => (error ? reject(error) : resolve()))
        server.closeAllConnections()
      }),
  }
}

async function reply(administered: Administered, incoming: IncomingMessage, response: ServerResponse): Promise<void> {
  let body: Reply
  try {
    body = { answer: await administer(administered, JSON.parse(await bodyOf(incoming))) }
  } catch (error) {
    const { code, message } =
      error instanceof AppError
        ? error
        : { code: 'internal' as const, message: error instanceof Error ? error.message : String(error) }
    body = { error: { code, message } }
  }
  response.writeHead(200, { 'content-type': 'application/json', connection: 'close' }).end(JSON.stringify(body))
}

async function bodyOf(incoming: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  let sizeBytes = 0
  for await (const chunk of incoming as AsyncIterable<Buffer>) {
    sizeBytes += chunk.length
    if (sizeBytes > largestCommandBytes)
      throw new AppError('too_large', `command: at most ${largestCommandBytes} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

/** Whoever carries out commands behind a socket; null where nobody listens. */
export async function findAdministrator(socketPath: string): Promise<Administrator | null> {
  try {
    // A command that nobody has: an answer of any kind shows that somebody listens.
    await send(socketPath, null)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ECONNREFUSED' || code === 'ENOTDIR' || code === 'EINVAL') return null
    if (code === 'EACCES')
      throw new AppError('bad_argument', `${socketPath}: belongs to another user, who alone may give commands`, {
        cause: error,
      })
    throw error
  }
  return async (command) => {
    const reply = await send(socketPath, command)
    if ('error' in reply) throw new AppError(reply.error.code, reply.error.message)
    // The other side is this same program.
    return reply.answer as never
  }
}

async function send(socketPath: string, command: unknown): Promise<Reply> {
  const outgoing = request({ socketPath, method: 'POST', path: '/', headers: { 'content-type': 'application/json' } })
  const answered = new Promise<IncomingMessage>((resolve, reject) => {
    outgoing.once('response', resolve).once('error', reject)
  })
  outgoing.end(JSON.stringify(command))
  return JSON.parse(await text(await answered)) as Reply
}
