// What all picture endpoints have in common: one job a request, its answer now or later.
import { AppError } from '../errors.ts'
import type { GenerateOrder } from '#service/jobs/generate-order.ts'
import { hasEnded, type Job } from '#service/jobs/job.ts'
import type { AnyReply, AnyRequest, HttpContext } from './context.ts'
import { pictureAnswer } from './picture-answer.ts'
import { idempotencyOf, wantsAsync } from './request-headers.ts'
import { sendBytes } from './send-bytes.ts'
import { requestUrl } from './urls.ts'
import { wireName } from './wire-names.ts'

/** Connections of this process that wait for a job; with its last one a synchronous job is cancelled. */
export type Waiting = Map<string, number>

/**
 * Submit the order and answer: the pictures' JSON, or for an asynchronous request where to ask for them. A connection that
 * closes cancels its job.
 */
export async function answerOrder(
  context: HttpContext,
  waiting: Waiting,
  request: AnyRequest & { readonly body: unknown },
  reply: AnyReply,
  route: Job['route'],
  order: GenerateOrder,
): Promise<void> {
  const { jobs } = context.services
  const asynchronous = wantsAsync(request.headers)
  const idempotency = idempotencyOf(request.headers, route, request.body)
  const job = await jobs.submit(request.account, order, { route, synchronous: !asynchronous, idempotency })
  tellNotApplied(reply, job)
  if (asynchronous) {
    reply.code(201)
    reply.send({ response_id: job.id, poll_url: requestUrl(context, request, job.id) })
    return
  }
  const ended = await waitFor(context, waiting, request, reply, job)
  reply.raw.once('finish', () => {
    jobs.discard(ended).catch((error: unknown) => request.log.error({ err: error }, 'result not removed'))
  })
  await sendAnswer(context, reply, ended)
}

/** Send the answer of a job that has ended: its pictures' JSON. Throws what it failed with, and `gone` when it is no longer kept. */
export async function sendAnswer({ services }: HttpContext, reply: AnyReply, job: Job): Promise<void> {
  tellNotApplied(reply, job)
  if (job.state === 'cancelled') throw new AppError('cancelled', `request ${job.id} was cancelled; nothing was charged`)
  if (job.state === 'failed') {
    if (!job.error) throw new AppError('internal', `job ${job.id} failed without an error`)
    throw new AppError(job.error.code, job.error.message, { field: job.error.field })
  }
  const pictures = await services.jobs.images(job)
  if (!job.result) throw new AppError('internal', `job ${job.id} has pictures without a result`)
  sendBytes(reply, 'application/json; charset=utf-8', pictureAnswer(job.route, job.result, pictures))
}

async function waitFor(
  { services: { jobs }, options }: HttpContext,
  waiting: Waiting,
  request: AnyRequest,
  { raw }: AnyReply,
  job: Job,
): Promise<Job> {
  waiting.set(job.id, (waiting.get(job.id) ?? 0) + 1)
  request.log.debug({ job: job.id }, 'waits')
  const closed = new AbortController()
  const onClose = () => closed.abort()
  raw.once('close', onClose)
  if (raw.destroyed) onClose()
  try {
    return await jobs.ended(job.id, AbortSignal.any([closed.signal, options.stopped]))
  } catch (error) {
    if (!closed.signal.aborted && !options.stopped.aborted) throw error
    // Others may wait for the same job, by its idempotency key.
    const left = waiting.get(job.id) === 1 ? await jobs.cancel(request.account, job.id) : job
    // It may have ended while it was cancelled.
    if (hasEnded(left) && left.state !== 'cancelled') return left
    if (closed.signal.aborted) throw new AppError('cancelled', 'the connection was closed', { cause: error })
    const retryAfterSeconds = 5
    throw new AppError('queue_full', 'the server is stopping; nothing was charged', { cause: error, retryAfterSeconds })
  } finally {
    raw.off('close', onClose)
    const left = (waiting.get(job.id) ?? 1) - 1
    if (left > 0) waiting.set(job.id, left)
    else waiting.delete(job.id)
  }
}

function tellNotApplied(reply: AnyReply, job: Job): void {
  if (job.notApplied.length > 0) reply.header('x-sepia-not-applied', job.notApplied.map(wireName).join(', '))
}
