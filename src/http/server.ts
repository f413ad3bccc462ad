// The door: what every request passes on its way in and every answer on its way out.
import type { Socket } from 'node:net'
import fastify, {
  LogController,
  type ConnectionError,
  type FastifyBaseLogger,
  type FastifyReply,
  type FastifyRequest,
} from 'fastify'
import { serializerCompiler } from 'fastify-type-provider-zod'
import type { z } from 'zod'
import { AppError } from '../errors.ts'
import { accountOf } from './auth.ts'
import type { HttpContext, HttpOptions, HttpServer, HttpServices } from './context.ts'
import { answerOrigin } from './cors.ts'
import { errorReply, faultsOf, InvalidRequest, type RequestPart } from './error-reply.ts'
import { acceptJsonOnly, bodyLimitBytes, requireAsyncLimit } from './json-body.ts'
import { addDocumentation, describeApi } from './openapi.ts'
import { addAssetTransfers } from './routes/asset-transfers.ts'
import { addAssets } from './routes/assets.ts'
import { addEvents } from './routes/events.ts'
import { addGenerate } from './routes/generate.ts'
import { addHealth } from './routes/health.ts'
import { addMetrics } from './routes/metrics.ts'
import { addPredict } from './routes/predict.ts'
import { addRequests } from './routes/requests.ts'
import { addS3 } from './routes/s3.ts'
import { addNotFound } from './routes/unfinished.ts'
import { addUsage } from './routes/usage.ts'
import { limitBodyTime } from './slow-body.ts'

// How long a client may take to send a whole request; the answer may take as long as the pictures do.
const requestTimeoutMs = 120_000

/** Where fastify's parts of a request are in error messages. */
const partNames: Readonly<Record<string, RequestPart>> = {
  body: 'body',
  params: 'path',
  querystring: 'query',
  headers: 'header',
}

/** The server with all its routes, ready for inject() or listen(); whoever makes it closes it. */
export async function createHttpServer(services: HttpServices, options: HttpOptions): Promise<HttpServer> {
  const context: HttpContext = { services, options }
  const loggerInstance: FastifyBaseLogger = options.logger
  const server: HttpServer = fastify({
    loggerInstance,
    // One line a request, written below, when it is answered.
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: 'requestId' }),
    bodyLimit: bodyLimitBytes,
    // See limitBodyTime.
    requestTimeout: 0,
    exposeHeadRoutes: false,
    return503OnClosing: false,
    // A client's own id would let it write into the log what it likes.
    requestIdHeader: false,
    genReqId: () => options.newRequestId(),
    frameworkErrors: (error, request, reply) => {
      frame(request, reply)
      send(reply, error)
    },
    clientErrorHandler: answerBrokenRequest,
  })
  server.setValidatorCompiler<z.ZodType>(({ schema, httpPart }) => (value) => {
    // Where there is no body, fastify says null.
    const parsed = schema.safeParse(value ?? undefined, { reportInput: true })
    if (parsed.success) return { value: parsed.data }
    return { error: new InvalidRequest(faultsOf(parsed.error, partNames[httpPart ?? 'body'])) }
  })
  server.setSerializerCompiler(serializerCompiler)
  acceptJsonOnly(server)
  await describeApi(server, options)

  server.addHook('onRequest', (request, reply, done) => {
    frame(request, reply)
    if (answerOrigin(request, reply, options.corsOrigins)) reply.code(204).send()
    else {
      limitBodyTime(request, requestTimeoutMs, () => refuseOnSocket(request.raw.socket, lateBody))
      done()
    }
  })
  server.addHook('onSend', async (_request, reply) => {
    reply.header('x-process-time', (reply.elapsedTime / 1000).toFixed(6))
    // A connection that is kept for more would keep the server from closing.
    if (options.stopping.aborted) reply.header('connection', 'close')
  })
  server.addHook('onResponse', async (request, reply) => logAnswer(request, reply))
  server.setErrorHandler((error, request, reply) => {
    logError(request, error)
    send(reply, error)
  })

  addNotFound(server)
  addHealth(server)
  addMetrics(server, context)
  await addDocumentation(server)
  await server.register(async (uploads) => {
    uploads.removeAllContentTypeParsers()
    // Whatever it is called, it is bytes, which the route reads itself.
    uploads.addContentTypeParser('*', (_request, _payload, done) => done(null))
    addAssetTransfers(uploads, context)
    await uploads.register(async (s3) => addS3(s3, context))
  })
  await server.register(async (restricted) => {
    restricted.decorateRequest('account')
    restricted.addHook('onRequest', async (request) => {
      request.account = await accountOf(request, context)
    })
    addRequests(restricted, context)
    addEvents(restricted, context)
    addUsage(restricted, context)
    addAssets(restricted, context)
    await restricted.register(async (inference) => {
      const waiting = new Map<string, number>()
      inference.addHook('onRequest', async (request) => {
        if (options.stopping.aborted)
          throw new AppError('queue_full', 'the server is stopping', { retryAfterSeconds: 5 })
        requireAsyncLimit(request, Number(request.headers['content-length'] ?? 0))
        await services.takeRequest(request.account)
      })
      const { backend, precision } = options.computedWith
      inference.addHook('onSend', async (_request, reply) => {
        if (reply.statusCode >= 300) return
        reply.header('x-sepia-precision', precision)
        if (backend !== null) reply.header('x-sepia-backend', backend)
      })
      addGenerate(inference, context, waiting)
      addPredict(inference, context, waiting)
    })
  })
  await server.ready()
  return server
}

/** Headers of every answer, whatever it will be. */
function frame(request: FastifyRequest, reply: FastifyReply): void {
  reply.headers({
    'x-user-request-id': request.id,
    'x-content-type-options': 'nosniff',
    'x-frame-options': 'DENY',
    'referrer-policy': 'no-referrer',
    'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
    'cache-control': 'no-store',
  })
}

function send(reply: FastifyReply, error: unknown): void {
  const { status, headers, body } = errorReply(error)
  reply
    .code(status)
    .headers({ ...headers, 'content-type': 'application/json; charset=utf-8' })
    .header('x-process-time', (reply.elapsedTime / 1000).toFixed(6))
    // As text, because a schema of the route may describe another shape for this status.
    .send(JSON.stringify(body))
}

/** What is no HTTP at all is answered on the bare socket, and the connection ends. */
function answerBrokenRequest(error: ConnectionError, socket: Socket): void {
  if (error.code === 'ECONNRESET' || socket.destroyed || !socket.writable) return void socket.destroy()
  if (error.code === 'HPE_HEADER_OVERFLOW')
    refuseOnSocket(socket, ['431 Request Header Fields Too Large', 'the headers are too long'])
  else if (error.code === 'ERR_HTTP_REQUEST_TIMEOUT') refuseOnSocket(socket, lateBody)
  else refuseOnSocket(socket, ['400 Bad Request', 'this is no HTTP request'])
}

const lateBody = ['408 Request Timeout', 'the request did not come to its end in time'] as const

function refuseOnSocket(socket: Socket, [status, detail]: readonly [status: string, detail: string]): void {
  const body = JSON.stringify({ detail })
  const head = ['content-type: application/json', `content-length: ${body.length}`, 'x-content-type-options: nosniff']
  socket.end(`HTTP/1.1 ${status}\r\n${head.join('\r\n')}\r\nconnection: close\r\n\r\n${body}`)
}

function logAnswer(request: FastifyRequest, reply: FastifyReply): void {
  const { method, routeOptions, log } = request
  const route = routeOptions.url ?? 'none'
  const account = (request.account as FastifyRequest['account'] | undefined)?.id
  const level = route.startsWith('/health') || route === '/metrics' ? 'debug' : 'info'
  log[level]({ method, route, account, status: reply.statusCode, ms: Math.round(reply.elapsedTime) }, 'answered')
}

function logError(request: FastifyRequest, error: unknown): void {
  const { status } = errorReply(error)
  if (status >= 500) request.log.error({ err: error }, 'failed')
  else request.log.debug({ err: error }, 'refused')
}
