// PUT and GET of an asset's file by a URL that carries its own permission; whoever has the URL needs no token.
import { z } from 'zod'
import { AppError } from '../../errors.ts'
import { isAssetId, type Asset } from '#service/assets/asset.ts'
import type { Transfer } from '#service/assets/signed-transfer.ts'
import type { AnyRequest, HttpContext, HttpServer } from '../context.ts'
import { errorAnswer, invalidAnswer } from '../schemas/answers.ts'
import { Readable } from 'node:stream'
import { sendBytes } from '../send-bytes.ts'
import { checkAnnounced, uploadBytes } from '../upload-body.ts'
import { originOf } from '../urls.ts'

const transferPath = z.object({ id: z.string().max(100).describe('Id of the asset.') })
const whole = z
  .string()
  .regex(/^\d{1,15}$/)
  .transform(Number)
const transferQuery = z.object({
  expires: whole.describe('Unix time after which the URL is refused.'),
  limit: whole.describe('Bytes that may be sent.'),
  signature: z.string().max(100),
})
const transferErrors = {
  403: errorAnswer.describe('The signature does not fit, the URL has expired, or the upload is complete.'),
  404: errorAnswer.describe('There is no file.'),
  413: errorAnswer.describe('The file is too large.'),
  422: invalidAnswer.describe('The URL is not one of this server.'),
}

/** Where an asset's file is sent to or fetched from, signed. */
export async function transferUrl(
  context: HttpContext,
  request: AnyRequest,
  asset: Asset,
  method: Transfer['method'],
): Promise<string> {
  const { expires, limit, signature } = await context.services.assets.sign(asset, method)
  return `${originOf(context, request)}/v1/transfers/${asset.id}?expires=${expires}&limit=${limit}&signature=${signature}`
}

/** PUT and GET /v1/transfers/{id}. */
export function addAssetTransfers(server: HttpServer, { services }: HttpContext): void {
  const { assets } = services
  const shared = { tags: ['assets'], security: [], params: transferPath, querystring: transferQuery }

  const putSchema = {
    ...shared,
    summary: "Send an asset's file",
    description: 'The body is the file as it is. The URL is the put_url of the asset and needs no token.',
    response: { 200: z.object({}).describe('All of it is stored; now complete the upload.'), ...transferErrors },
  }
  server.put('/v1/transfers/:id', { schema: putSchema, config: { upload: true } }, async (request, reply) => {
    const { id } = request.params
    reply.header('connection', 'close')
    await check('PUT', id, request.query)
    checkAnnounced(request.raw, request.query.limit)
    const etag = await assets.receive(id, uploadBytes(request.raw))
    reply.removeHeader('connection')
    return reply.header('etag', `"${etag}"`).send({})
  })

  const getSchema = {
    ...shared,
    summary: "Fetch an asset's file",
    description: 'The URL is the get_url of the asset and needs no token.',
    response: {
      200: { description: 'The file.', content: { 'application/octet-stream': { schema: z.string() } } },
      ...transferErrors,
    },
  }
  server.get('/v1/transfers/:id', { schema: getSchema }, async (request, reply) => {
    const { id } = request.params
    await check('GET', id, request.query)
    const { sizeBytes, chunks } = await assets.read(id)
    reply.header('content-length', sizeBytes).header('content-disposition', `attachment; filename="${id}"`)
    sendBytes(reply, 'application/octet-stream', Readable.from(chunks))
    return reply
  })

  async function check(method: Transfer['method'], id: string, query: z.output<typeof transferQuery>): Promise<void> {
    const { expires, limit, signature } = query
    if (!isAssetId(id)) throw new AppError('forbidden', 'the signature does not fit this URL and method')
    await assets.checkTransfer({ method, assetId: id, expires, limit }, signature)
  }
}
