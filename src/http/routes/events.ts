import { Readable } from 'node:stream'
import { z } from 'zod'
import type { JobEvent } from '#service/jobs/watch-job.ts'
import type { HttpContext, HttpServer } from '../context.ts'
import { commonErrors, errorAnswer } from '../schemas/answers.ts'
import { sendBytes } from '../send-bytes.ts'
import { findJob, requestPath } from './requests.ts'

/** How often a silent stream says that it is alive, so that nothing between here and the client closes it. */
const pulseMs = 15_000

/** GET /v1/requests/{id}/events: a request as it goes on, as server-sent events. */
export function addEvents(server: HttpServer, context: HttpContext): void {
  const { services, options } = context
  const schema = {
    summary: 'Follow a request',
    description:
      'Server-sent events until it ends: `state` {state}, `progress` {step, of}, `preview` {step, jpeg_b64}, `end` {state}. Previews are small and approximate.',
    tags: ['requests'],
    params: requestPath,
    response: {
      200: { description: 'The events.', content: { 'text/event-stream': { schema: z.string() } } },
      ...commonErrors,
      404: errorAnswer,
    },
  }
  server.get('/v1/requests/:id/events', { schema }, async (request, reply) => {
    const { id } = await findJob(context, request, request.params.id)
    const closed = new AbortController()
    reply.raw.once('close', () => closed.abort())
    const events = services.jobs.watch(id, AbortSignal.any([closed.signal, options.stopped]))
    reply.header('connection', 'close')
    sendBytes(reply, 'text/event-stream', Readable.from(eventText(events)))
    return reply
  })
}

async function* eventText(events: AsyncIterable<JobEvent>): AsyncGenerator<string> {
  const iterator = events[Symbol.asyncIterator]()
  try {
    let next = iterator.next()
    for (;;) {
      using pulse = pulseAfter(pulseMs)
      const event = await Promise.race([next, pulse.elapsed])
      if (event === null) {
        yield ': alive\n\n'
        continue
      }
      if (event.done) return
      yield textOf(event.value)
      next = iterator.next()
    }
  } finally {
    await iterator.return?.()
  }
}

function pulseAfter(timeMs: number): Disposable & { readonly elapsed: Promise<null> } {
  const { promise, resolve } = Promise.withResolvers<null>()
  const timer = setTimeout(() => resolve(null), timeMs)
  return { elapsed: promise, [Symbol.dispose]: () => clearTimeout(timer) }
}

/** One event in the form of the HTML standard's text/event-stream. */
function textOf(event: JobEvent): string {
  return `event: ${event.type}\ndata: ${JSON.stringify(dataOf(event))}\n\n`
}

function dataOf(event: JobEvent): Readonly<Record<string, unknown>> {
  switch (event.type) {
    case 'state':
      return { state: event.job.state, queue_position: event.job.queuePosition }
    case 'end':
      return { state: event.job.state }
    case 'progress':
      return { step: event.step, of: event.of }
    case 'preview':
      return { step: event.step, jpeg_b64: Buffer.from(event.jpeg).toString('base64') }
    default:
      return event satisfies never
  }
}
