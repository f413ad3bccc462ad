// The answers that carry pictures. They can have tens of megabytes, so they are put together as bytes and not by way of
// JSON.stringify: base64 needs no escaping.
import type { Job } from '#service/jobs/job.ts'
import type { JobResult } from '#service/db/schema.ts'

/** The JSON body of a finished job's answer in the shape of its route. `pictures` are encoded, in the order of the job's seeds. */
export function pictureAnswer(route: Job['route'], result: JobResult, pictures: readonly Uint8Array[]): Buffer {
  return route === 'generate' ? generateAnswer(result, pictures) : predictAnswer(pictures)
}

function generateAnswer({ images, predictionTimeMs }: JobResult, pictures: readonly Uint8Array[]): Buffer {
  const parts = pictures.flatMap((bytes, index) => [
    `${index > 0 ? ',' : ''}{"image_b64":"`,
    base64Of(bytes),
    `","removed_for_safety":false,"seed":${images[index].seed},"safety_score":null}`,
  ])
  return joined(['{"images":[', ...parts, `],"prediction_time_ms":${Math.round(predictionTimeMs * 10) / 10}}`])
}

function predictAnswer(pictures: readonly Uint8Array[]): Buffer {
  const parts = pictures.flatMap((bytes, index) => [`${index > 0 ? ',' : ''}"image_${index}":"`, base64Of(bytes), '"'])
  return joined(['{"completion":{', ...parts, '}}'])
}

/**
 * Bytes that go through a string at a time: large strings are collected late, each by a pause over the whole heap. A
 * multiple of three, so that no padding comes between.
 */
const chunkBytes = 24 * 1024

function base64Of(bytes: Uint8Array): Buffer {
  const source = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const text = Buffer.allocUnsafe(4 * Math.ceil(bytes.length / 3))
  for (let start = 0, end = 0; start < bytes.length; start += chunkBytes)
    end += text.write(source.toString('base64', start, start + chunkBytes), end, 'latin1')
  return text
}

const joined = (parts: readonly (string | Buffer)[]): Buffer =>
  Buffer.concat(parts.map((part) => (typeof part === 'string' ? Buffer.from(part, 'latin1') : part)))
