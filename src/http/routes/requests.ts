import { z } from 'zod'
import { jobStates } from '#service/db/schema.ts'
import { hasEnded, type Job } from '#service/jobs/job.ts'
import { AppError } from '../../errors.ts'
import type { AnyRequest, HttpContext, HttpServer } from '../context.ts'
import { sendAnswer } from '../inference.ts'
import { commonErrors, errorAnswer, generateAnswer, requestList, requestStatus } from '../schemas/answers.ts'
import { oneOf, wholeNumber } from '../schemas/lenient.ts'
import { responseUrl } from '../urls.ts'

/** Path of one request. */
export const requestPath = z.object({ id: z.string().max(100).describe('response_id of the 201.') })

const listQuery = z.strictObject({
  limit: wholeNumber(1, 100).default(20).describe('How many; 20 when left out.'),
  offset: wholeNumber(0, 1_000_000).default(0).describe('How many to pass over.'),
  state: oneOf(jobStates).optional().describe('Only those in this state.'),
})

const notFound = { 404: errorAnswer.describe("No such request, or another account's.") }

/** GET /v1/requests, GET and DELETE /v1/requests/{id}, GET /v1/responses/{id}. */
export function addRequests(server: HttpServer, context: HttpContext): void {
  const { jobs } = context.services

  const listSchema = {
    summary: "List the account's requests, the latest first",
    tags: ['requests'],
    querystring: listQuery,
    response: { 200: requestList.describe('A page of them.'), ...commonErrors },
  }
  server.get('/v1/requests', { schema: listSchema }, async (request) => {
    const { limit, offset, state } = request.query
    const found = await jobs.list(request.account, { limit, offset, ...(state && { state }) })
    const data = found.jobs.map((job) => statusOf(context, request, job))
    return { data, has_more: offset + data.length < found.total, total: found.total }
  })

  const pollSchema = {
    summary: 'Ask how far a request is',
    description: '202 until it has ended, then 200 with `response_url`.',
    tags: ['requests'],
    params: requestPath,
    response: {
      200: requestStatus.describe('It has ended.'),
      202: requestStatus.describe('It waits or runs.'),
      ...commonErrors,
      ...notFound,
    },
  }
  server.get('/v1/requests/:id', { schema: pollSchema }, async (request, reply) => {
    const job = await findJob(context, request, request.params.id)
    return reply.code(hasEnded(job) ? 200 : 202).send(statusOf(context, request, job))
  })

  const cancelSchema = {
    summary: 'Cancel a request, queued or running',
    description: 'A cancelled request is not charged. Cancelling one that has ended changes nothing.',
    tags: ['requests'],
    params: requestPath,
    response: { 200: requestStatus.describe('The request as it is now.'), ...commonErrors, ...notFound },
  }
  server.delete('/v1/requests/:id', { schema: cancelSchema }, async (request) => {
    const { id } = await findJob(context, request, request.params.id)
    return statusOf(context, request, await jobs.cancel(request.account, id))
  })

  const responseSchema = {
    summary: 'Fetch the answer of an asynchronous request',
    description: 'The body of the synchronous call, for 24 hours; of a request that failed or was cancelled its error.',
    tags: ['requests'],
    params: requestPath,
    response: { 200: generateAnswer.describe('The pictures.'), ...commonErrors, ...notFound },
  }
  server.get('/v1/responses/:id', { schema: responseSchema }, async (request, reply) => {
    const job = await findJob(context, request, request.params.id)
    if (!hasEnded(job))
      throw new AppError(
        'not_found',
        `request ${job.id} is ${job.state} and has no answer yet; poll /v1/requests/${job.id}`,
      )
    await sendAnswer(context, reply, job)
    return reply
  })
}

/** The account's job of that id. Throws `not_found`, also for those of other accounts. */
export async function findJob({ services }: HttpContext, request: AnyRequest, id: string): Promise<Job> {
  const job = await services.jobs.get(request.account, id)
  if (!job) throw new AppError('not_found', `there is no request ${JSON.stringify(id)}`)
  return job
}

/** A job in the words of the wire. */
export function statusOf(context: HttpContext, request: AnyRequest, job: Job): z.output<typeof requestStatus> {
  const ended = hasEnded(job)
  return {
    id: job.id,
    status: ended ? 'completed' : job.state === 'queued' ? 'pending' : 'running',
    state: job.state,
    response_url: ended ? responseUrl(context, request, job.id) : null,
    queue_position: job.queuePosition,
    progress: { step: job.step, of: job.steps },
    created_at: job.createdAt.toISOString(),
    started_at: job.startedAt?.toISOString() ?? null,
    ended_at: job.endedAt?.toISOString() ?? null,
    expires_at: job.expiresAt?.toISOString() ?? null,
  }
}
