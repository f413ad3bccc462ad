// Blobs in a bucket of S3, or of anything that speaks its protocol.
import {
  DeleteObjectsCommand,
  GetObjectCommand,
  HeadBucketCommand,
  ListObjectsV2Command,
  NoSuchKey,
  PutObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3'
import { AppError } from '../../errors.ts'
import { checkedKey, type Blob, type BlobStore } from './blob-store.ts'

/** Where the bucket is; without keys the SDK finds some in its usual places (environment, files, the machine's role). */
export type S3Place = {
  readonly bucket: string
  /** Null: Amazon's. */
  readonly endpoint: string | null
  readonly region: string
  readonly accessKeyId: string | null
  readonly secretAccessKey: string | null
  /** Put before every key, such as `sepia/`; empty for none. */
  readonly prefix: string
}

/** DeleteObjects takes no more at once. */
const deleteAtOnce = 1000

/** Open a bucket. Throws `storage_unavailable` when it cannot be reached, `bad_argument` for keys without their half. */
export async function openS3BlobStore(place: S3Place): Promise<BlobStore & Disposable> {
  const { bucket, prefix: own } = place
  const client = clientOf(place)
  const guarded = async <T>(pending: Promise<T>): Promise<T> => {
    try {
      return await pending
    } catch (error) {
      throw unavailable(place, error)
    }
  }
  try {
    await guarded(client.send(new HeadBucketCommand({ Bucket: bucket })))
  } catch (error) {
    client.destroy()
    throw error
  }

  async function* list(prefix: string): AsyncGenerator<Blob> {
    let token: string | undefined
    do {
      const page = await guarded(
        client.send(new ListObjectsV2Command({ Bucket: bucket, Prefix: own + prefix, ContinuationToken: token })),
      )
      for (const { Key, Size, LastModified } of page.Contents ?? [])
        if (Key !== undefined && Size !== undefined && LastModified !== undefined)
          yield { key: Key.slice(own.length), sizeBytes: Size, modifiedAt: LastModified }
      token = page.NextContinuationToken
    } while (token !== undefined)
  }

  return {
    put: async (key, bytes) => {
      await guarded(client.send(new PutObjectCommand({ Bucket: bucket, Key: own + checkedKey(key), Body: bytes })))
    },
    get: async (key) => {
      try {
        const { Body } = await client.send(new GetObjectCommand({ Bucket: bucket, Key: own + checkedKey(key) }))
        return Body ? await Body.transformToByteArray() : null
      } catch (error) {
        if (error instanceof NoSuchKey) return null
        throw unavailable(place, error)
      }
    },
    delete: async (keys) => {
      for (let start = 0; start < keys.length; start += deleteAtOnce) {
        const Objects = keys.slice(start, start + deleteAtOnce).map((key) => ({ Key: own + checkedKey(key) }))
        const { Errors = [] } = await guarded(
          client.send(new DeleteObjectsCommand({ Bucket: bucket, Delete: { Objects, Quiet: true } })),
        )
        if (Errors.length > 0) throw unavailable(place, new Error(`${Errors[0].Key}: ${Errors[0].Message}`))
      }
    },
    list,
    [Symbol.dispose]: () => client.destroy(),
  }
}

function clientOf({ endpoint, region, accessKeyId, secretAccessKey }: S3Place): S3Client {
  if ((accessKeyId === null) !== (secretAccessKey === null))
    throw new AppError('bad_argument', 'file store: of access key and secret key only one is given')
  return new S3Client({
    region,
    ...(endpoint !== null && { endpoint, forcePathStyle: true }),
    ...(accessKeyId !== null && secretAccessKey !== null && { credentials: { accessKeyId, secretAccessKey } }),
    // Not every server of the protocol knows the newer checksums.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
  })
}

function unavailable({ bucket, endpoint }: S3Place, error: unknown): AppError {
  const { name, message } = error instanceof Error ? error : { name: 'Error', message: String(error) }
  const reason = message === name || message === '' ? name : `${name}: ${message}`
  const where = `bucket "${bucket}"${endpoint === null ? '' : ` at ${endpoint}`}`
  return new AppError('storage_unavailable', `file store, ${where}: ${reason.replaceAll(/\s+/g, ' ')}`, {
    cause: error,
  })
}
