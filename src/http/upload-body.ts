// Bodies of uploads, which are streams: how long they may pause, how they are told from broken ones, and which checksums
// of S3's they are held against while they pass. Nothing is stored of a body that is not whole.
import { createHash, type Hash } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { crc32 } from 'node:zlib'
import { AppError } from '../errors.ts'
import { decodeAwsChunks } from './aws-chunks.ts'

/** A checksum that a client sent and the bytes do not have. */
export class WrongChecksum extends Error {
  override readonly name = 'WrongChecksum'
}

/** Something of the S3 protocol that is not spoken here. */
export class NotSpoken extends Error {
  override readonly name = 'NotSpoken'
}

/** How long a client may send nothing. */
const pauseMs = 60_000

/** The body as it comes. Throws `cancelled` when the connection breaks or pauses for too long. */
export async function* uploadBytes(raw: IncomingMessage): AsyncGenerator<Uint8Array> {
  // Node closes the connection then.
  raw.socket.setTimeout(pauseMs)
  try {
    for await (const chunk of raw) yield chunk as Uint8Array
    // A connection that was closed in the middle may end the stream like a whole one.
    if (!raw.complete) throw new Error('the body is cut short')
  } catch (error) {
    throw new AppError('cancelled', 'the upload broke off', { cause: error })
  } finally {
    raw.socket.setTimeout(0)
  }
}

/** Throws `too_large` for a length that is announced and too much. */
export function checkAnnounced(raw: IncomingMessage, limitBytes: number): void {
  const announced = Number(raw.headers['x-amz-decoded-content-length'] ?? raw.headers['content-length'] ?? 0)
  if (announced > limitBytes)
    throw new AppError('too_large', `the file may have ${limitBytes} bytes, this one has ${announced}`)
}

/** The body of an S3 request, decoded and held against its checksums. Throws WrongChecksum at its end, NotSpoken at once. */
export function s3Body(raw: IncomingMessage): AsyncIterable<Uint8Array> {
  const { headers } = raw
  const content = headerOf(headers['x-amz-content-sha256'])
  const checks = announcedChecks(headers)
  if (/^[0-9a-f]{64}$/.test(content)) checks.push(hashCheck('x-amz-content-sha256', 'sha256', 'hex', content))
  else if (content === 'STREAMING-UNSIGNED-PAYLOAD-TRAILER') return checked(chunked(raw), checks)
  else if (content !== 'UNSIGNED-PAYLOAD')
    throw new NotSpoken(`x-amz-content-sha256: ${content.slice(0, 60)} is not supported`)
  return checked(uploadBytes(raw), checks)
}

/** Sees all bytes, and throws at their end when they are not what it was told. */
type Check = { update(chunk: Uint8Array): void; end(): void }

async function* checked(chunks: AsyncIterable<Uint8Array>, checks: readonly Check[]): AsyncGenerator<Uint8Array> {
  for await (const chunk of chunks) {
    for (const check of checks) check.update(chunk)
    yield chunk
  }
  for (const check of checks) check.end()
}

async function* chunked(raw: IncomingMessage): AsyncGenerator<Uint8Array> {
  const length = Number(headerOf(raw.headers['x-amz-decoded-content-length']))
  const trailerName = headerOf(raw.headers['x-amz-trailer']).toLowerCase()
  // The value is known only at the end; until then all bytes are counted.
  const sums = trailerName === '' ? null : checksum(trailerName)
  let sizeBytes = 0
  const trailers = new Map<string, string>()
  for await (const chunk of decodeAwsChunks(uploadBytes(raw), trailers)) {
    sizeBytes += chunk.length
    sums?.update(chunk)
    yield chunk
  }
  if (sizeBytes !== length) throw new WrongChecksum(`x-amz-decoded-content-length: ${length}, got ${sizeBytes} bytes`)
  if (!sums) return
  const told = trailers.get(trailerName)
  if (told === undefined || sums.value() !== told) throw new WrongChecksum(`${trailerName} does not fit the bytes`)
}

const algorithms = { crc32: null, sha1: 'sha1', sha256: 'sha256' } as const

/** A running checksum by the name of its header. Throws NotSpoken for one that is not known here. */
function checksum(header: string): { update(chunk: Uint8Array): void; value(): string } {
  const name = /^x-amz-checksum-(\w+)$/.exec(header)?.[1] ?? ''
  if (!Object.hasOwn(algorithms, name)) throw new NotSpoken(`${header.slice(0, 60)} is not supported; send CRC32`)
  const algorithm = algorithms[name as keyof typeof algorithms]
  if (algorithm !== null) {
    const hash: Hash = createHash(algorithm)
    return { update: (chunk) => void hash.update(chunk), value: () => hash.digest('base64') }
  }
  let sum = 0
  return {
    update: (chunk) => {
      sum = crc32(chunk, sum)
    },
    value: () => {
      const bytes = Buffer.alloc(4)
      bytes.writeUInt32BE(sum)
      return bytes.toString('base64')
    },
  }
}

function announcedChecks(headers: IncomingMessage['headers']): Check[] {
  const checks: Check[] = []
  for (const [header, value] of Object.entries(headers)) {
    const told = headerOf(value)
    if (header === 'content-md5') checks.push(hashCheck(header, 'md5', 'base64', told))
    if (!/^x-amz-checksum-(?!algorithm|type|mode)/.test(header)) continue
    const sums = checksum(header)
    checks.push({
      update: (chunk) => sums.update(chunk),
      end: () => {
        if (sums.value() !== told) throw new WrongChecksum(`${header} does not fit the bytes`)
      },
    })
  }
  return checks
}

function hashCheck(header: string, algorithm: string, encoding: 'hex' | 'base64', told: string): Check {
  const hash = createHash(algorithm)
  return {
    update: (chunk) => void hash.update(chunk),
    end: () => {
      if (hash.digest(encoding) !== told) throw new WrongChecksum(`${header} does not fit the bytes`)
    },
  }
}

const headerOf = (value: string | readonly string[] | undefined): string =>
  value === undefined ? '' : typeof value === 'string' ? value : value.join(',')
