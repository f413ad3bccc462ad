import { timingSafeEqual, createHash } from 'node:crypto'
import { z } from 'zod'
import { AppError } from '../../errors.ts'
import { accountOf } from '../auth.ts'
import type { HttpContext, HttpServer } from '../context.ts'
import { errorAnswer } from '../schemas/answers.ts'
import { sendBytes } from '../send-bytes.ts'

/** The account whose tokens may read the metrics of the whole server when no token of their own is configured. */
const operatorAccount = 'default'

/** GET /metrics for Prometheus; it tells about all accounts, so it is for the operator. */
export function addMetrics(server: HttpServer, context: HttpContext): void {
  const { services, options } = context
  const schema = {
    summary: 'Figures of the server for Prometheus',
    description: 'With the token of SEPIA_METRICS_TOKEN; where that is not set, with one of the account "default".',
    tags: ['server'],
    response: {
      200: { description: 'The figures.', content: { 'text/plain': { schema: z.string() } } },
      401: errorAnswer.describe('No token, or an unknown one.'),
      403: errorAnswer.describe('A token of another account.'),
    },
  }
  server.get('/metrics', { schema }, async (request, reply) => {
    if (options.metricsToken !== null) {
      if (!sameText(request.headers.authorization ?? '', `Bearer ${options.metricsToken}`))
        throw new AppError('unauthorized', 'the metrics have a token of their own, which this is not')
    } else if ((await accountOf(request, context)).name !== operatorAccount)
      throw new AppError('forbidden', 'the metrics are about all accounts, and for the operator')
    const { contentType, text } = await services.metrics()
    sendBytes(reply, contentType, Buffer.from(text))
    return reply
  })
}

/** Compared as hashes, so that neither the length nor the time of the comparison tells anything. */
function sameText(a: string, b: string): boolean {
  const [left, right] = [a, b].map((text) => createHash('sha256').update(text).digest())
  return timingSafeEqual(left, right)
}
