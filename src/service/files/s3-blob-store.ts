// Blobs in a bucket of S3, or of anything that speaks its protocol.
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  DeleteObjectsCommand,
  GetObjectCommand,
  HeadBucketCommand,
  ListObjectsV2Command,
  NoSuchKey,
  PutObjectCommand,
  S3Client,
  UploadPartCommand,
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
/** An object has at most 10,000 parts: 160 GB. */
const partBytes = 16 * 2 ** 20

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

  async function read(key: string, Range?: string) {
    try {
      const { Body } = await client.send(new GetObjectCommand({ Bucket: bucket, Key: own + checkedKey(key), Range }))
      return Body ?? null
    } catch (error) {
      if (error instanceof NoSuchKey) return null
      throw unavailable(place, error)
    }
  }

  return {
    put: async (key, bytes) => {
      await guarded(client.send(new PutObjectCommand({ Bucket: bucket, Key: own + checkedKey(key), Body: bytes })))
    },
    get: async (key) => {
      const body = await read(key)
      return body && guarded(body.transformToByteArray())
    },
    read: async (key, start = 0) => {
      const body = await read(key, start > 0 ? `bytes=${start}-` : undefined)
      return body && passing(body.transformToWebStream(), (error) => unavailable(place, error))
    },
    write: (key, chunks) => writeParts(client, { Bucket: bucket, Key: own + checkedKey(key) }, chunks, guarded),
    placeOf: () => null,
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

type Guard = <T>(pending: Promise<T>) => Promise<T>
type Target = { readonly Bucket: string; readonly Key: string }

/** Store pieces as parts of one object, which appears when the last one is there. */
async function writeParts(
  client: S3Client,
  target: Target,
  chunks: AsyncIterable<Uint8Array>,
  guarded: Guard,
): Promise<void> {
  const parts = inParts(chunks)
  const first = await parts.next()
  if (first.done || first.value.length < partBytes) {
    const Body = first.done ? new Uint8Array() : first.value
    await guarded(client.send(new PutObjectCommand({ ...target, Body })))
    return
  }
  const { UploadId } = await guarded(client.send(new CreateMultipartUploadCommand(target)))
  const stored: { ETag: string | undefined; PartNumber: number }[] = []
  const send = async (Body: Uint8Array): Promise<void> => {
    const PartNumber = stored.length + 1
    const { ETag } = await guarded(client.send(new UploadPartCommand({ ...target, UploadId, PartNumber, Body })))
    stored.push({ ETag, PartNumber })
  }
  try {
    await send(first.value)
    for await (const part of parts) await send(part)
    const MultipartUpload = { Parts: stored }
    await guarded(client.send(new CompleteMultipartUploadCommand({ ...target, UploadId, MultipartUpload })))
  } catch (error) {
    await guarded(client.send(new AbortMultipartUploadCommand({ ...target, UploadId })))
    throw error
  }
}

/** Pieces of any length → parts of {@link partBytes}, the last one shorter. */
async function* inParts(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let held: Uint8Array[] = []
  let heldBytes = 0
  for await (const chunk of chunks) {
    held.push(chunk)
    heldBytes += chunk.length
    while (heldBytes >= partBytes) {
      const whole = Buffer.concat(held)
      yield whole.subarray(0, partBytes)
      held = [whole.subarray(partBytes)]
      heldBytes -= partBytes
    }
  }
  if (heldBytes > 0) yield Buffer.concat(held)
}

async function* passing(
  stream: AsyncIterable<unknown>,
  failed: (error: unknown) => AppError,
): AsyncGenerator<Uint8Array> {
  try {
    for await (const chunk of stream) yield chunk as Uint8Array
  } catch (error) {
    throw failed(error)
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
