// Uploads in the manner of S3, by Amazon's own client and by hand.
import { createHash, createHmac, randomBytes } from 'node:crypto'
import { createServer } from 'node:http'
import { crc32 } from 'node:zlib'
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  PutObjectCommand,
  S3Client,
  UploadPartCommand,
} from '@aws-sdk/client-s3'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { checkSignature } from '../../src/http/s3-signature.ts'
import { call, openHttpOffice, portOf, type Client, type HttpOffice } from '../support/http-office.ts'

let door: HttpOffice
let client: Client
let endpoint: string

beforeAll(async () => {
  door = await openHttpOffice()
  client = await door.newClient()
  endpoint = `http://127.0.0.1:${await portOf(door.server)}`
})
afterAll(() => door[Symbol.asyncDispose]())

type Sts = Readonly<Record<string, string>>
type Made = { readonly asset: { readonly id: string; readonly size_bytes: number; readonly status: string } }
const engine = 'image/stable-diffusion-xl-v1-0'

async function create(name: string, type = 'lora'): Promise<{ id: string; sts: Sts }> {
  const payload = { name, asset_type: type, data: { asset_type: type, engine }, transfer_api_type: 'sts' }
  const { json } = await call(door.server, 'POST', '/v1/assets', { by: client, payload })
  const { asset, transfer_api } = json as Made & { readonly transfer_api: Sts }
  return { id: asset.id, sts: transfer_api }
}

async function complete(id: string): Promise<Made['asset']> {
  await call(door.server, 'POST', `/v1/assets/${id}/complete-upload`, { by: client, payload: {} })
  const look = async () => ((await call(door.server, 'GET', `/v1/assets/${id}`, { by: client })).json as Made).asset
  await expect.poll(async () => (await look()).status).not.toBe('uploaded')
  return look()
}

async function contentOf(id: string): Promise<Buffer> {
  const { json } = await call(door.server, 'GET', `/v1/assets/${id}`, { by: client })
  const url = (json as { transfer_api: Sts }).transfer_api['get_url'].replace('http://sepia.test', endpoint)
  return Buffer.from(await (await fetch(url)).arrayBuffer())
}

function s3(sts: Sts, changes: Partial<{ sessionToken: string; secretAccessKey: string }> = {}): S3Client {
  const opened = new S3Client({
    endpoint,
    region: 'us-east-1',
    maxAttempts: 1,
    credentials: {
      accessKeyId: sts['aws_access_key_id'],
      secretAccessKey: sts['aws_secret_access_key'],
      sessionToken: sts['aws_session_token'],
      ...changes,
    },
  })
  onTestFinished(() => opened.destroy())
  return opened
}

const place = (sts: Sts) => ({ Bucket: sts['s3_bucket'], Key: sts['s3_key'] })
const blobsThere = async () => (await Array.fromAsync(door.office.blobs.list('assets/'))).length

it('tells where and how', async () => {
  const { id, sts } = await create('told')
  expect(sts).toEqual({
    type: 'sts',
    aws_region: 'us-east-1',
    aws_access_key_id: expect.stringMatching(/^SEPIA\w{16}$/),
    aws_secret_access_key: expect.stringMatching(/^[0-9a-f]{64}$/),
    aws_session_token: expect.any(String),
    s3_bucket: 'octo_assets',
    s3_key: id,
    s3_url: `s3://octo_assets/${id}`,
    s3_endpoint_url: 'http://sepia.test',
  })
})

describe('a whole object', () => {
  it('is what was sent', async () => {
    const { id, sts } = await create('whole')
    const bytes = Buffer.concat([Buffer.from('good '), randomBytes(3_000_000)])
    const { ETag } = await s3(sts).send(new PutObjectCommand({ ...place(sts), Body: bytes }))
    expect(ETag).toMatch(/^"[0-9a-f]{32}-1"$/)
    expect(await complete(id)).toMatchObject({ status: 'ready', size_bytes: bytes.length })
    expect(Buffer.compare(await contentOf(id), bytes)).toBe(0)
    await expect(s3(sts).send(new PutObjectCommand({ ...place(sts), Body: bytes }))).rejects.toMatchObject({
      name: 'AccessDenied',
    })
  })

  it.each([
    ['another secret', { secretAccessKey: 'x' }],
    ['another token', { sessionToken: 'x' }],
    ['the token of another asset', null],
  ])('is refused with %s', async (name, changes) => {
    const { sts } = await create(`refused-${name.replaceAll(' ', '-')}`)
    const foreign = await create(`foreign-${name.replaceAll(' ', '-')}`)
    const before = await blobsThere()
    const opened = changes === null ? s3(foreign.sts) : s3(sts, changes)
    await expect(opened.send(new PutObjectCommand({ ...place(sts), Body: 'good' }))).rejects.toMatchObject({
      name: 'AccessDenied',
      $metadata: { httpStatusCode: 403 },
    })
    expect(await blobsThere()).toBe(before)
  })
})

describe('an object in parts', () => {
  it('is its parts in order, whatever order they came in, and leaves none behind', async () => {
    const { id, sts } = await create('parts')
    const before = await blobsThere()
    const opened = s3(sts)
    const { UploadId } = await opened.send(new CreateMultipartUploadCommand(place(sts)))
    const parts = [
      Buffer.concat([Buffer.from('good '), randomBytes(5 * 2 ** 20)]),
      randomBytes(5 * 2 ** 20),
      randomBytes(7),
    ]
    const send = async (index: number, body = parts[index]) => {
      const PartNumber = index + 1
      const { ETag } = await opened.send(new UploadPartCommand({ ...place(sts), UploadId, PartNumber, Body: body }))
      return { ETag, PartNumber }
    }
    await send(1, randomBytes(10))
    const sent = (await Promise.all([send(2), send(1), send(0)])).toReversed()
    expect(await blobsThere()).toBe(before + 3)
    const finish = (Parts: typeof sent) =>
      opened.send(new CompleteMultipartUploadCommand({ ...place(sts), UploadId, MultipartUpload: { Parts } }))
    await expect(finish(sent.toReversed())).rejects.toMatchObject({ message: expect.stringContaining('ascending') })
    await expect(finish([{ ...sent[0], ETag: '"x"' }])).rejects.toMatchObject({ name: 'InvalidRequest' })
    expect((await finish(sent)).ETag).toMatch(/-3"$/)
    expect(await blobsThere()).toBe(before + 1)
    expect(await complete(id)).toMatchObject({ status: 'ready', size_bytes: 10 * 2 ** 20 + 12 })
    expect(Buffer.compare(await contentOf(id), Buffer.concat(parts))).toBe(0)
    await expect(send(0)).rejects.toMatchObject({ name: 'AccessDenied' })
  })

  it('may be given up, and is gone', async () => {
    const { sts } = await create('aborted')
    const before = await blobsThere()
    const opened = s3(sts)
    const { UploadId } = await opened.send(new CreateMultipartUploadCommand(place(sts)))
    await opened.send(new UploadPartCommand({ ...place(sts), UploadId, PartNumber: 1, Body: 'good' }))
    expect(await blobsThere()).toBe(before + 1)
    await opened.send(new AbortMultipartUploadCommand({ ...place(sts), UploadId }))
    expect(await blobsThere()).toBe(before)
    await expect(
      opened.send(new UploadPartCommand({ ...place(sts), UploadId, PartNumber: 1, Body: 'good' })),
    ).rejects.toMatchObject({ name: 'NoSuchUpload' })
  })

  it('goes with its asset', async () => {
    const { id, sts } = await create('deleted')
    const before = await blobsThere()
    const opened = s3(sts)
    const { UploadId } = await opened.send(new CreateMultipartUploadCommand(place(sts)))
    await opened.send(new UploadPartCommand({ ...place(sts), UploadId, PartNumber: 1, Body: 'good' }))
    await call(door.server, 'DELETE', `/v1/assets/${id}`, { by: client })
    expect(await blobsThere()).toBe(before)
  })
})

describe('a request by hand', () => {
  /** Sign as S3's documentation says, and send. */
  async function send(sts: Sts, body: string | Buffer, headers: Record<string, string>, changes: { time?: Date } = {}) {
    const time = (changes.time ?? new Date()).toISOString().replaceAll(/[-:]|\.\d{3}/g, '')
    const date = time.slice(0, 8)
    const all: Record<string, string> = {
      host: endpoint.slice('http://'.length),
      'x-amz-content-sha256': 'UNSIGNED-PAYLOAD',
      'x-amz-date': time,
      'x-amz-security-token': sts['aws_session_token'],
      ...headers,
    }
    const names = Object.keys(all).sort()
    const lines = names.map((name) => `${name}:${all[name]}\n`).join('')
    const path = `/octo_assets/${sts['s3_key']}`
    const canonical = ['PUT', path, '', lines, names.join(';'), all['x-amz-content-sha256']].join('\n')
    const scope = `${date}/us-east-1/s3/aws4_request`
    const digest = createHash('sha256').update(canonical).digest('hex')
    let key: Buffer = Buffer.from(`AWS4${sts['aws_secret_access_key']}`)
    for (const part of scope.split('/')) key = createHmac('sha256', key).update(part).digest()
    const signature = createHmac('sha256', key).update(`AWS4-HMAC-SHA256\n${time}\n${scope}\n${digest}`).digest('hex')
    const credential = `${sts['aws_access_key_id']}/${scope}`
    const { host: _, ...sent } = all
    const answer = await fetch(endpoint + path, {
      method: 'PUT',
      body: typeof body === 'string' ? body : new Uint8Array(body),
      headers: {
        ...sent,
        authorization: `AWS4-HMAC-SHA256 Credential=${credential}, SignedHeaders=${names.join(';')}, Signature=${signature}`,
      },
    })
    return { status: answer.status, text: await answer.text() }
  }
  const sumOf = (text: string): string => {
    const bytes = Buffer.alloc(4)
    bytes.writeUInt32BE(crc32(text))
    return bytes.toString('base64')
  }
  const wrapped = (text: string, sum: string): string =>
    `3\r\n${text.slice(0, 3)}\r\n${(text.length - 3).toString(16)}\r\n${text.slice(3)}\r\n0\r\nx-amz-checksum-crc32:${sum}\r\n\r\n`
  const trailing = (length: number) => ({
    'x-amz-content-sha256': 'STREAMING-UNSIGNED-PAYLOAD-TRAILER',
    'x-amz-decoded-content-length': `${length}`,
    'x-amz-trailer': 'x-amz-checksum-crc32',
    'content-encoding': 'aws-chunked',
  })
  const text = 'good and wrapped'

  it('may have its checksum behind the body', async () => {
    const { id, sts } = await create('wrapped')
    expect(await send(sts, wrapped(text, sumOf(text)), trailing(text.length))).toMatchObject({ status: 200 })
    await complete(id)
    expect((await contentOf(id)).toString()).toBe(text)
  })

  it.each([
    ['a wrong checksum behind it', wrapped(text, sumOf('x')), trailing(text.length), 400, 'BadDigest'],
    [
      'no checksum behind it',
      `${text.length.toString(16)}\r\n${text}\r\n0\r\n\r\n`,
      trailing(text.length),
      400,
      'BadDigest',
    ],
    ['another length', wrapped(text, sumOf(text)), trailing(3), 400, 'BadDigest'],
    ['no end', wrapped(text, sumOf(text)).slice(0, 20), trailing(text.length), 400, 'InvalidRequest'],
    ['no wrapping', text, trailing(text.length), 400, 'InvalidRequest'],
    ['a wrong checksum before it', text, { 'x-amz-checksum-crc32': sumOf('x') }, 400, 'BadDigest'],
    ['a wrong MD5', text, { 'content-md5': 'x' }, 400, 'BadDigest'],
    ['another body than was signed', text, { 'x-amz-content-sha256': 'a'.repeat(64) }, 400, 'BadDigest'],
    ['a checksum that is not known', text, { 'x-amz-checksum-crc64nvme': 'x' }, 501, 'NotImplemented'],
    ['signed chunks', text, { 'x-amz-content-sha256': 'STREAMING-AWS4-HMAC-SHA256-PAYLOAD' }, 501, 'NotImplemented'],
    ['a copy', '', { 'x-amz-copy-source': '/octo_assets/x' }, 501, 'NotImplemented'],
  ])('is refused with %s, and leaves nothing', async (name, body, headers, status, code) => {
    const { id, sts } = await create(`hand-${name.replaceAll(' ', '-')}`)
    const before = await blobsThere()
    const answer = await send(sts, body, headers)
    expect(answer).toMatchObject({ status, text: expect.stringContaining(`<Code>${code}</Code>`) })
    expect(await blobsThere()).toBe(before)
    expect(await complete(id)).toMatchObject({ size_bytes: 0 })
  })

  it('is refused when it was signed at another time', async () => {
    const { sts } = await create('late')
    const time = new Date(Date.now() - 16 * 60 * 1000)
    expect(await send(sts, text, {}, { time })).toMatchObject({
      status: 403,
      text: expect.stringContaining('x-amz-date'),
    })
  })

  it('without a signature is refused', async () => {
    const { sts } = await create('bare')
    const url = `${endpoint}/octo_assets/${sts['s3_key']}`
    const bare = await fetch(url, { method: 'PUT', body: text })
    expect([bare.status, bare.headers.get('content-type')]).toEqual([403, 'application/xml'])
    const bearer = { authorization: client.headers.authorization, 'x-amz-security-token': sts['aws_session_token'] }
    expect((await fetch(url, { method: 'PUT', body: text, headers: bearer })).status).toBe(403)
    expect((await fetch(url)).status).toBe(404)
  })
})

it('signatures are those of Amazon’s client, whatever the path and query', async () => {
  const seen: unknown[] = []
  const server = createServer((request, response) => {
    try {
      checkSignature(request, { accessKeyId: 'AK', secretAccessKey: 'SK' }, new Date())
      seen.push(request.url)
    } catch (error) {
      seen.push(error)
    }
    response.end()
  })
  await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => void server.close())
  const { port } = server.address() as { port: number }
  const opened = new S3Client({
    endpoint: `http://127.0.0.1:${port}`,
    region: 'eu-west-1',
    credentials: { accessKeyId: 'AK', secretAccessKey: 'SK' },
  })
  onTestFinished(() => opened.destroy())
  const Key = "a b/ü+(1)'~!*.txt"
  await opened.send(new PutObjectCommand({ Bucket: 'octo_assets', Key, Body: 'x', Metadata: { a: ' b  c ' } }))
  await opened.send(new UploadPartCommand({ Bucket: 'octo_assets', Key, UploadId: 'a+b/c=', PartNumber: 2, Body: 'x' }))
  expect(seen).toEqual([expect.stringContaining('/octo_assets/a%20b/'), expect.stringContaining('partNumber=2')])
})
