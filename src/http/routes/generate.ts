import type { HttpContext, HttpServer } from '../context.ts'
import { generateOrder } from '../generate-order.ts'
import { answerOrder, type Waiting } from '../inference.ts'
import { asyncHeaders } from '../schemas/headers.ts'
import { asyncAnswer, generateAnswer, inferenceErrors } from '../schemas/answers.ts'
import { generateRequest } from '../schemas/generate-request.ts'

/** POST /generate/sdxl. */
export function addGenerate(server: HttpServer, context: HttpContext, waiting: Waiting): void {
  const schema = {
    summary: 'Make pictures',
    description:
      'Text to image; image to image with `init_image`; inpainting with `mask_image` too; outpainting with `outpainting`. Numbers and booleans may be sent as text, null means the default, and an unknown field is refused.\n\nWith `X-OctoAI-Async: 1` the answer is a 201 at once, and the pictures are fetched later. Otherwise a closed connection cancels the request, and a cancelled request is not charged.',
    tags: ['pictures'],
    headers: asyncHeaders,
    body: generateRequest,
    response: {
      200: generateAnswer.describe('The pictures.'),
      201: asyncAnswer.describe('Accepted.'),
      ...inferenceErrors,
    },
  }
  server.post('/generate/sdxl', { schema }, async (request, reply) => {
    await answerOrder(context, waiting, request, reply, 'generate', generateOrder(request.body))
    return reply
  })
}
