// Assets on the wire: what creating and listing take, and what the library answers.
import { z } from 'zod'
import { engineNames } from '#service/assets/asset.ts'
import { assetStatuses, assetTypes } from '#service/db/schema.ts'
import { flag, oneOf, optional, takes, unicode, wholeNumber, withDefault } from './lenient.ts'

const transferTypes = ['presigned-url', 'sts', 'gcp-oauth', 'any', 'none'] as const
const dataTypes = ['fp16', 'fp32', 'bf16', 'int4', 'int8'] as const
const weightFormats = ['safetensors', 'pt'] as const
const plainFormats = ['unknown', 'png', 'jpg', 'jpeg', 'txt', 'mp3', 'wav', 'jsonl'] as const
const engineTypes = ['text', 'image', 'audio', 'video'] as const

const words = () => optional(z.array(unicode(200), takes('a list of words')).max(100))
const weights = {
  engine: oneOf(engineNames).describe('image/stable-diffusion-xl-v1-0, or image/controlnet-sdxl for a checkpoint.'),
  data_type: optional(oneOf(dataTypes)).describe('As its owner says; read from the file when left out.'),
  file_format: optional(oneOf(weightFormats)).describe('A pt file is converted to safetensors.'),
}

const newData = z
  .discriminatedUnion(
    'asset_type',
    [
      z.strictObject({ asset_type: z.literal('checkpoint'), ...weights }),
      z.strictObject({ asset_type: z.literal('vae'), ...weights }),
      z.strictObject({
        asset_type: z.literal('lora'),
        ...weights,
        trigger_words: words(),
        checkpoint: optional(unicode(200)),
      }),
      z.strictObject({ asset_type: z.literal('textual_inversion'), ...weights, trigger_words: words() }),
      z.strictObject({
        asset_type: z.literal('file'),
        file_format: optional(oneOf(plainFormats)),
        version: optional(unicode(200)),
        preview_url: optional(unicode(4000)),
      }),
      z.strictObject({
        asset_type: z.literal('latent'),
        engine: oneOf(engineNames),
        file_format: optional(oneOf(weightFormats)),
      }),
    ],
    takes(`an object whose asset_type is one of ${assetTypes.join(', ')}`),
  )
  .describe('What the file is; `asset_type` as outside.')

/** Body of POST /v1/assets. */
export const createRequest = z
  .strictObject({
    asset_type: oneOf(assetTypes),
    name: unicode(200).describe('1 to 64 letters, digits, `_` and `-`; unique in the account.'),
    data: newData,
    description: withDefault(unicode(10_000), ''),
    is_public: withDefault(flag(), false).describe('Only the operator adds to the public library.'),
    transfer_api_type: withDefault(oneOf(transferTypes), 'presigned-url').describe(
      'How the file is sent: a URL to PUT it to, or credentials for the S3 protocol. `any` is a URL.',
    ),
    url: optional(unicode(4000)).describe('Where the server fetches the file itself, if its operator allows that.'),
    hf_repo: optional(unicode(400)).describe('A repository of the Hugging Face hub, likewise.'),
    hf_token_secret: optional(unicode(200)).describe('Name of a token that the operator has stored.'),
    skip_validation: withDefault(flag(), false).describe('Accepted; every file is inspected all the same.'),
  })
  .refine(({ asset_type, data }) => asset_type === data.asset_type, {
    path: ['data', 'asset_type'],
    error: 'must be the same as asset_type',
  })
  .meta({ id: 'CreateAssetRequest' })

/** Body of POST /v1/assets/{id}/complete-upload. */
export const completeRequest = z
  .strictObject({ skip_validation: optional(flag()), token: optional(unicode(4000)) })
  .nullish()
  .meta({ id: 'CompleteUploadRequest' })

const several = <Schema extends z.ZodType>(schema: Schema) =>
  z.preprocess(
    (value) => (value === undefined || Array.isArray(value) ? value : [value]),
    z.array(schema).max(100).optional(),
  )

/** Query of GET /v1/assets. */
export const listQuery = z.strictObject({
  name: unicode(200).optional(),
  is_public: flag().optional().describe('True: public ones, those of the library included.'),
  data_type: several(unicode(40)),
  asset_type: several(oneOf(assetTypes)),
  engine: several(oneOf(engineNames)),
  engine_type: oneOf(engineTypes).optional(),
  file_format: several(oneOf([...weightFormats, ...plainFormats])),
  owner: unicode(200).optional().describe('`octoai` or `public` for the library; the account itself when left out.'),
  asset_ids: several(unicode(4000)).describe('Ids, also several in one text with commas between them.'),
  limit: withDefault(wholeNumber(1, 100), 100),
  offset: withDefault(wholeNumber(0, 1_000_000), 0),
  get_preview_urls: withDefault(flag(), false).describe('Put a URL to see a picture into its data.'),
})

/** Query of GET /v1/assets/{id}. */
export const getQuery = z.strictObject({ transfer_api_type: withDefault(oneOf(transferTypes), 'presigned-url') })

/** An asset as every answer shows it. */
export const assetAnswer = z
  .object({
    id: z.string(),
    asset_type: z.enum(assetTypes),
    name: z.string(),
    description: z.string(),
    size_bytes: z.int(),
    status: z.enum(assetStatuses),
    status_details: z.string().describe('Why it was rejected, or what its owner should know.'),
    created_at: z.string(),
    data: z.record(z.string(), z.unknown()).describe('As given, with what the file itself tells.'),
    tenant_uuid: z.string(),
    is_public: z.boolean(),
    url: z.string().nullable(),
    hf_repo: z.string().nullable(),
    file_structure: z.enum(['single_file', 'multiple_files', 'unknown']),
    status_info: z.record(z.string(), z.unknown()).nullable().describe('The report of the inspection.'),
  })
  .meta({ id: 'Asset' })

const transferApi = z
  .discriminatedUnion('type', [
    z.object({ type: z.literal('presigned-url'), put_url: z.string(), get_url: z.string() }),
    z.object({
      type: z.literal('sts'),
      aws_region: z.string(),
      aws_access_key_id: z.string(),
      aws_secret_access_key: z.string(),
      aws_session_token: z.string(),
      s3_bucket: z.string(),
      s3_key: z.string(),
      s3_url: z.string(),
      s3_endpoint_url: z.string(),
    }),
    z.object({ type: z.literal('none') }),
  ])
  .meta({ id: 'TransferApi', description: 'How the file is sent and fetched; `none` for those of others.' })
export type TransferApi = z.output<typeof transferApi>

/** 200 of POST /v1/assets. */
export const createAnswer = z
  .object({ asset: assetAnswer, transfer_api: transferApi, token: z.string().nullable() })
  .meta({ id: 'CreateAssetAnswer' })

/** 200 of GET /v1/assets/{id}. */
export const getAnswer = z.object({ asset: assetAnswer, transfer_api: transferApi }).meta({ id: 'GetAssetAnswer' })

/** 200 of GET /v1/assets. */
export const listAnswer = z
  .object({ data: z.array(assetAnswer), has_more: z.boolean(), total: z.int() })
  .meta({ id: 'AssetList' })

/** 200 of POST /v1/assets/{id}/complete-upload. */
export const completeAnswer = z
  .object({ error: z.string().nullable().describe('The reason, where the file was rejected at once.') })
  .meta({ id: 'CompleteUploadAnswer' })

/** 200 of DELETE /v1/assets/{id}. */
export const deleteAnswer = z.object({ id: z.string(), deleted_at: z.string() }).meta({ id: 'DeleteAssetAnswer' })
