// What the API answers, as schemas: they write the description, and they check what is sent.
import { z } from 'zod'

const instant = z.iso.datetime().meta({ description: 'A time in UTC, ISO 8601.' })

/** One picture of an answer. */
const generatedImage = z
  .object({
    image_b64: z.string().describe('The picture in base64, without a data: prefix.'),
    removed_for_safety: z.boolean(),
    seed: z.int().describe('Makes this picture again, also alone.'),
    safety_score: z.number().nullable(),
  })
  .meta({ id: 'GeneratedImage' })

/** 200 of POST /generate/sdxl. */
export const generateAnswer = z
  .object({
    images: z.array(generatedImage),
    prediction_time_ms: z.number().describe('Time of the engine.'),
  })
  .meta({ id: 'GenerateAnswer' })

/** 200 of POST /predict. */
export const predictAnswer = z
  .object({ completion: z.record(z.string(), z.string()).describe('image_0, image_1, … → the picture in base64.') })
  .meta({ id: 'PredictAnswer' })

/** 201 of every asynchronous POST. */
export const asyncAnswer = z
  .object({ response_id: z.string(), poll_url: z.url() })
  .meta({ id: 'AsyncAnswer', description: 'The request was accepted; poll_url tells how far it is.' })

/** A request, as polls and lists show it. */
export const requestStatus = z
  .object({
    id: z.string(),
    status: z
      .enum(['pending', 'running', 'completed'])
      .describe('Completed also when it failed or was cancelled: response_url then answers that error.'),
    state: z.enum(['queued', 'running', 'succeeded', 'failed', 'cancelled']),
    response_url: z.url().nullable().describe('Where the answer is, once completed.'),
    queue_position: z.int().nullable().describe('Requests that go first, plus one; null unless it is queued.'),
    progress: z.object({ step: z.int(), of: z.int() }).describe('Denoising steps over all pictures.'),
    created_at: instant,
    started_at: instant.nullable(),
    ended_at: instant.nullable(),
    expires_at: instant.nullable().describe('When the answer is removed.'),
  })
  .meta({ id: 'RequestStatus' })

/** 200 of GET /v1/requests. */
export const requestList = z
  .object({ data: z.array(requestStatus), has_more: z.boolean(), total: z.int() })
  .meta({ id: 'RequestList' })

/** 200 of GET /v1/usage; money is in dollars with six decimals, as text. */
export const usageAnswer = z
  .object({
    account: z.string(),
    from: instant.nullable(),
    to: instant.nullable(),
    images: z.int().describe('Pictures made and charged.'),
    spent_usd: z.string().describe('Charged in this time.'),
    storage_usd: z.string().describe('What of that was for keeping assets.'),
    stored_bytes: z.int().describe('Bytes of the assets that are ready, now.'),
    held_usd: z.string().describe('Promised to requests that are not done.'),
    balance_usd: z.string().nullable().describe('What is left; null for an account without prepaid credit.'),
  })
  .meta({ id: 'Usage' })

/** A 422. */
export const invalidAnswer = z
  .object({
    detail: z.array(
      z.object({
        loc: z
          .array(z.union([z.string(), z.int()]))
          .describe('Where: every level and list index, such as ["body", "seed", 2].'),
        msg: z.string(),
        type: z.string(),
      }),
    ),
  })
  .meta({ id: 'InvalidRequest' })

/** Every other error. */
export const errorAnswer = z.object({ detail: z.string() }).meta({ id: 'Error' })

/** A 400: the operator's word list refused the prompt. */
export const refusedAnswer = z.object({ message: z.string(), detail: z.string() }).meta({ id: 'PromptRefused' })

/** Errors that every route with a token may answer. */
export const commonErrors = {
  401: errorAnswer.describe('No token, or an unknown one.'),
  422: invalidAnswer.describe('A field is wrong; loc says which.'),
}

/** Errors of the routes that make pictures. */
export const inferenceErrors = {
  ...commonErrors,
  400: refusedAnswer.describe('The prompt was refused.'),
  402: errorAnswer.describe('No credit.'),
  413: errorAnswer.describe('The body is too large: 64 MiB, or 10 MB when asynchronous.'),
  415: errorAnswer.describe('The body is not sent as JSON.'),
  429: errorAnswer.describe(
    'Too many requests a minute, or too many requests in the queue; Retry-After says when to come again.',
  ),
  503: errorAnswer.describe('The queue is full; Retry-After says when to come again.'),
}
