// The part of the S3 protocol that uploads of the official clients speak: PutObject, and uploads in parts. A session token
// is permission for one asset, whose id is the object's key.
import type { FastifyReply, FastifyRequest } from 'fastify'
import { z } from 'zod'
import { AppError } from '../../errors.ts'
import type { HttpContext, HttpServer } from '../context.ts'
import { errorReply } from '../error-reply.ts'
import { checkSignature } from '../s3-signature.ts'
import { NotSpoken, s3Body, uploadBytes, WrongChecksum } from '../upload-body.ts'

/** The bucket of all uploads; it is no DNS label, so that clients put it into the path. */
export const uploadBucket = 'octo_assets'
/** Region that clients sign for. */
export const uploadRegion = 'us-east-1'

const largestListBytes = 4 * 2 ** 20
const objectPath = z.object({ '*': z.string().max(200) })
const objectQuery = z.looseObject({
  uploads: z.string().optional(),
  uploadId: z.string().max(100).optional(),
  partNumber: z
    .string()
    .regex(/^\d{1,5}$/)
    .optional(),
})

/** PUT, POST and DELETE /octo_assets/{key}. */
export function addS3(server: HttpServer, { services }: HttpContext): void {
  const { assets } = services
  server.setErrorHandler((error, request, reply) => {
    request.log.debug({ err: error }, 'refused')
    sendError(reply, error)
  })
  const schema = { hide: true, params: objectPath, querystring: objectQuery } as const

  /** The asset that the request may send. Throws `forbidden`. */
  async function assetOf(request: FastifyRequest, key: string): Promise<string> {
    const token = request.headers['x-amz-security-token']
    if (typeof token !== 'string' || request.headers.authorization === undefined)
      throw new AppError(
        'forbidden',
        'sign the request and send the session token of the asset as x-amz-security-token',
      )
    const session = await assets.openSession(token)
    checkSignature(request.raw, session, new Date())
    if (session.assetId !== key) throw new AppError('forbidden', 'the session is for another key')
    return session.assetId
  }

  server.put(`/${uploadBucket}/*`, { schema, config: { upload: true } }, async (request, reply) => {
    const { uploadId, partNumber } = request.query
    const assetId = await assetOf(request, request.params['*'])
    if (request.headers['x-amz-copy-source'] !== undefined) throw new NotSpoken('copies are not supported')
    const body = s3Body(request.raw)
    const etag =
      uploadId === undefined
        ? await assets.receive(assetId, body)
        : await assets.parts.receive(assetId, uploadId, Number(partNumber ?? 0), body)
    return reply.header('etag', `"${etag}"`).send()
  })

  server.post(`/${uploadBucket}/*`, { schema, config: { upload: true } }, async (request, reply) => {
    const { uploadId, uploads } = request.query
    const key = request.params['*']
    const assetId = await assetOf(request, key)
    const place = { Bucket: uploadBucket, Key: key }
    if (uploads !== undefined) {
      await emptyBody(request)
      return sendXml(reply, 'InitiateMultipartUploadResult', { ...place, UploadId: await assets.parts.begin(assetId) })
    }
    if (uploadId === undefined) throw new NotSpoken('forms are not supported')
    const parts = namedParts(await textOf(request))
    const etag = await assets.parts.complete(assetId, uploadId, parts)
    return sendXml(reply, 'CompleteMultipartUploadResult', { ...place, ETag: `"${etag}"` })
  })

  server.delete(`/${uploadBucket}/*`, { schema, config: { upload: true } }, async (request, reply) => {
    const { uploadId } = request.query
    const assetId = await assetOf(request, request.params['*'])
    if (uploadId === undefined) throw new NotSpoken('an asset is deleted at /v1/assets')
    await assets.parts.abort(assetId, uploadId)
    return reply.code(204).send()
  })
}

async function emptyBody(request: FastifyRequest): Promise<void> {
  for await (const chunk of uploadBytes(request.raw))
    if (chunk.length > 0) throw new NotSpoken('a body is not expected here')
}

async function textOf(request: FastifyRequest): Promise<string> {
  const chunks: Uint8Array[] = []
  let sizeBytes = 0
  for await (const chunk of s3Body(request.raw)) {
    sizeBytes += chunk.length
    if (sizeBytes > largestListBytes) throw new AppError('too_large', 'the list of parts is too long')
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

/** The parts that CompleteMultipartUpload names, in its order. */
function namedParts(xml: string): { number: number; etag: string }[] {
  return Array.from(xml.matchAll(/<Part>([^]*?)<\/Part>/g), ([, part]) => {
    const number = /<PartNumber>\s*(\d{1,5})\s*<\/PartNumber>/.exec(part)?.[1]
    const etag = /<ETag>\s*(?:"|&quot;|&#34;)?([\w-]{1,100})(?:"|&quot;|&#34;)?\s*<\/ETag>/.exec(part)?.[1]
    if (number === undefined || etag === undefined)
      throw new AppError('bad_argument', 'a part must have PartNumber and ETag')
    return { number: Number(number), etag }
  })
}

function sendXml(reply: FastifyReply, root: string, values: Readonly<Record<string, string>>): FastifyReply {
  const inner = Object.entries(values).map(([name, value]) => `<${name}>${escaped(value)}</${name}>`)
  return reply
    .header('content-type', 'application/xml')
    .send(`<?xml version="1.0" encoding="UTF-8"?>\n<${root}>${inner.join('')}</${root}>`)
}

const entities: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' }
const escaped = (text: string): string => text.replaceAll(/[&<>"]/g, (character) => entities[character])

/** S3's words for what went wrong. */
function sendError(reply: FastifyReply, error: unknown): void {
  const [status, code, message] = s3Error(error)
  // Whoever still sends would be read for nothing.
  reply.code(status).header('connection', 'close')
  sendXml(reply, 'Error', { Code: code, Message: message, RequestId: String(reply.getHeader('x-user-request-id')) })
}

const s3Codes: Readonly<Partial<Record<string, readonly [status: number, code: string]>>> = {
  forbidden: [403, 'AccessDenied'],
  too_large: [400, 'EntityTooLarge'],
  bad_argument: [400, 'InvalidRequest'],
  not_found: [404, 'NoSuchUpload'],
  cancelled: [400, 'IncompleteBody'],
}

function s3Error(error: unknown): readonly [status: number, code: string, message: string] {
  if (error instanceof WrongChecksum) return [400, 'BadDigest', error.message]
  if (error instanceof NotSpoken) return [501, 'NotImplemented', error.message]
  const known = error instanceof AppError ? s3Codes[error.code] : undefined
  if (known && error instanceof AppError) return [...known, error.message]
  const { status, body } = errorReply(error)
  const message = typeof body.detail === 'string' ? body.detail : 'the request is wrong'
  return status >= 500 ? [status, 'InternalError', message] : [400, 'InvalidRequest', message]
}
