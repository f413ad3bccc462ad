import { AppError } from '../../errors.ts'
import type { HttpContext, HttpServer } from '../context.ts'
import { generateOrder } from '../generate-order.ts'
import { answerOrder, type Waiting } from '../inference.ts'
import { asyncAnswer, inferenceErrors, predictAnswer } from '../schemas/answers.ts'
import { predictRequest } from '../schemas/generate-request.ts'
import { asyncHeaders } from '../schemas/headers.ts'

/** POST /predict, the interface of autumn 2023. */
export function addPredict(server: HttpServer, context: HttpContext, waiting: Waiting): void {
  const schema = {
    summary: 'Make pictures (legacy)',
    description:
      'As POST /generate/sdxl, with `model` for `checkpoint`, older spellings of samplers, PNG, and the older answer.',
    tags: ['pictures'],
    deprecated: true,
    headers: asyncHeaders,
    body: predictRequest,
    response: {
      200: predictAnswer.describe('The pictures.'),
      201: asyncAnswer.describe('Accepted.'),
      ...inferenceErrors,
    },
  }
  server.post('/predict', { schema }, async (request, reply) => {
    const { model, ...fields } = request.body
    if (model !== null)
      throw new AppError('unsupported', 'model is not there yet: this server takes null only', { field: 'model' })
    const order = generateOrder({ ...fields, checkpoint: null })
    await answerOrder(context, waiting, request, reply, 'predict', order)
    return reply
  })
}
