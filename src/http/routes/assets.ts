// The asset library: list, create, complete an upload, get, delete.
import { z } from 'zod'
import { tenantUuid, type Asset } from '#service/assets/asset.ts'
import type { AssetData } from '#service/db/schema.ts'
import { AppError } from '../../errors.ts'
import type { AnyRequest, HttpContext, HttpServer } from '../context.ts'
import { commonErrors, errorAnswer } from '../schemas/answers.ts'
import {
  completeAnswer,
  completeRequest,
  createAnswer,
  createRequest,
  deleteAnswer,
  getAnswer,
  getQuery,
  listAnswer,
  listQuery,
  type assetAnswer,
  type TransferApi,
} from '../schemas/asset.ts'
import { originOf } from '../urls.ts'
import { transferUrl } from './asset-transfers.ts'
import { uploadBucket, uploadRegion } from './s3.ts'

type TransferType = z.output<typeof getQuery>['transfer_api_type']

const assetPath = z.object({
  id: z.string().max(200).describe('Id, name, or `owner:name` such as `octoai:crayon-style`.'),
})
const notFound = { 404: errorAnswer.describe("No such asset, or another account's.") }
const forbidden = { 403: errorAnswer.describe('Only the operator adds to the public library.') }

/** GET and POST /v1/assets, GET and DELETE /v1/assets/{id}, POST /v1/assets/{id}/complete-upload. */
export function addAssets(server: HttpServer, context: HttpContext): void {
  const { assets } = context.services
  const tags = ['assets']

  const listSchema = {
    summary: 'List assets, the latest first',
    description: "The account's own; with `is_public=true` or `owner=octoai` those of the public library.",
    tags,
    querystring: listQuery,
    response: { 200: listAnswer.describe('A page of them.'), ...commonErrors },
  }
  server.get('/v1/assets', { schema: listSchema }, async (request) => {
    const { query } = request
    const filter = {
      name: query.name,
      isPublic: query.is_public,
      dataTypes: query.data_type,
      types: query.asset_type,
      engines: query.engine,
      engineType: query.engine_type,
      fileFormats: query.file_format,
      owner: query.owner,
      ids: query.asset_ids?.flatMap((text) => text.split(',')),
    }
    const found = await assets.list(request.account, filter, query)
    const data = await Promise.all(found.assets.map((asset) => shown(context, request, asset, query.get_preview_urls)))
    return { data, has_more: query.offset + data.length < found.total, total: found.total }
  })

  const createSchema = {
    summary: 'Create an asset',
    description:
      'Then send its file as `transfer_api` says and complete the upload; with `url` or `hf_repo` the server fetches it.',
    tags,
    body: createRequest,
    response: { 200: createAnswer.describe('The asset, and how to send its file.'), ...commonErrors, ...forbidden },
  }
  server.post('/v1/assets', { schema: createSchema }, async (request) => {
    const { body, account } = request
    const { url, hf_repo: hfRepo, hf_token_secret: hfTokenSecret } = body
    refuseUnknownTransfer(body.transfer_api_type)
    const made = {
      name: body.name,
      description: body.description,
      type: body.asset_type,
      data: dataOf(body.data),
      isPublic: body.is_public,
    }
    const asset = await assets.create(account, made, { url, hfRepo, hfTokenSecret })
    const transfer = await transferApiOf(context, request, asset, body.transfer_api_type)
    return { asset: await shown(context, request, asset), transfer_api: transfer, token: null }
  })

  const completeSchema = {
    summary: 'Complete an upload',
    description: 'The file is inspected then: the asset becomes `ready`, or `rejected` with a reason.',
    tags,
    params: assetPath,
    body: completeRequest,
    response: { 200: completeAnswer.describe('It is or will be inspected.'), ...commonErrors, ...notFound },
  }
  server.post('/v1/assets/:id/complete-upload', { schema: completeSchema }, async (request, reply) => {
    const closed = new AbortController()
    reply.raw.once('close', () => closed.abort())
    const signal = AbortSignal.any([closed.signal, context.options.stopped])
    const { status, statusDetails } = await assets.complete(request.account, request.params.id, signal)
    return { error: status === 'rejected' || status === 'error' ? statusDetails : null }
  })

  const getSchema = {
    summary: 'Get an asset',
    tags,
    params: assetPath,
    querystring: getQuery,
    response: { 200: getAnswer.describe('The asset.'), ...commonErrors, ...notFound },
  }
  server.get('/v1/assets/:id', { schema: getSchema }, async (request) => {
    refuseUnknownTransfer(request.query.transfer_api_type)
    const asset = await assets.get(request.account, request.params.id)
    const transfer = await transferApiOf(context, request, asset, request.query.transfer_api_type)
    return { asset: await shown(context, request, asset), transfer_api: transfer }
  })

  const deleteSchema = {
    summary: 'Delete an asset',
    description: 'Its name is free at once. Requests that were accepted before are still carried out with it.',
    tags,
    params: assetPath,
    response: { 200: deleteAnswer.describe('It is deleted.'), ...commonErrors, ...notFound },
  }
  server.delete('/v1/assets/:id', { schema: deleteSchema }, async ({ account, params }) => {
    const { id, deletedAt } = await assets.delete(account, params.id)
    return { id, deleted_at: deletedAt.toISOString() }
  })
}

function refuseUnknownTransfer(type: TransferType): void {
  if (type === 'gcp-oauth')
    throw new AppError('unsupported', 'transfer_api_type: gcp-oauth is not there; take presigned-url or sts', {
      field: 'transfer_api_type',
    })
}

/** How the viewer may move the asset's file. */
async function transferApiOf(
  context: HttpContext,
  request: AnyRequest,
  asset: Asset,
  type: TransferType,
): Promise<TransferApi> {
  if (asset.accountId !== request.account.id || type === 'none') return { type: 'none' }
  if (type === 'sts') {
    const { accessKeyId, secretAccessKey, sessionToken } = await context.services.assets.session(asset)
    return {
      type,
      aws_region: uploadRegion,
      aws_access_key_id: accessKeyId,
      aws_secret_access_key: secretAccessKey,
      aws_session_token: sessionToken,
      s3_bucket: uploadBucket,
      s3_key: asset.id,
      s3_url: `s3://${uploadBucket}/${asset.id}`,
      s3_endpoint_url: originOf(context, request),
    }
  }
  return {
    type: 'presigned-url',
    put_url: await transferUrl(context, request, asset, 'PUT'),
    get_url: await transferUrl(context, request, asset, 'GET'),
  }
}

/** What the owner says, in the service's words. */
function dataOf(given: z.output<typeof createRequest>['data']): AssetData {
  return {
    engine: 'engine' in given ? given.engine : null,
    dataType: 'data_type' in given ? given.data_type : null,
    fileFormat: given.file_format,
    triggerWords: ('trigger_words' in given ? given.trigger_words : null) ?? [],
    checkpoint: given.asset_type === 'lora' ? given.checkpoint : null,
    version: given.asset_type === 'file' ? given.version : null,
  }
}

/** An asset in the words of the wire. */
async function shown(
  context: HttpContext,
  request: AnyRequest,
  asset: Asset,
  withPreview = false,
): Promise<z.output<typeof assetAnswer>> {
  const { report } = asset
  return {
    id: asset.id,
    asset_type: asset.type,
    name: asset.name,
    description: asset.description,
    size_bytes: asset.sizeBytes,
    status: asset.status,
    status_details: asset.statusDetails,
    created_at: asset.createdAt.toISOString(),
    data: { ...shownData(asset), ...(withPreview && (await preview(context, request, asset))) },
    tenant_uuid: tenantUuid(asset),
    is_public: asset.isPublic,
    url: asset.url,
    hf_repo: asset.hfRepo,
    file_structure: 'single_file',
    status_info: report && {
      architecture: report.architecture,
      tensors: report.tensors,
      parameters: report.parameters,
      thumbnail: report.thumbnail,
      warnings: report.warnings,
      details: report.details,
    },
  }
}

function shownData({ type, data }: Asset): Readonly<Record<string, unknown>> {
  const { engine, dataType, fileFormat, triggerWords, checkpoint, version } = data
  switch (type) {
    case 'file':
      return { asset_type: type, file_format: fileFormat ?? 'unknown', version }
    case 'latent':
      return { asset_type: type, engine, file_format: fileFormat }
    case 'checkpoint':
    case 'vae':
      return { asset_type: type, engine, data_type: dataType, file_format: fileFormat }
    case 'textual_inversion':
      return { asset_type: type, engine, data_type: dataType, file_format: fileFormat, trigger_words: triggerWords }
    case 'lora':
      return {
        asset_type: type,
        engine,
        data_type: dataType,
        file_format: fileFormat,
        trigger_words: triggerWords,
        checkpoint,
      }
    default:
      throw new Error(`no asset: ${JSON.stringify(type satisfies never)}`)
  }
}

async function preview(context: HttpContext, request: AnyRequest, asset: Asset): Promise<object> {
  const isPicture = asset.type === 'file' && ['png', 'jpg', 'jpeg'].includes(asset.data.fileFormat ?? '')
  if (!isPicture || asset.hash === null || asset.accountId !== request.account.id) return {}
  return { preview_url: await transferUrl(context, request, asset, 'GET') }
}
