import { z } from 'zod'
import type { HttpServer } from '../context.ts'

/** GET /health and GET /healthcheck: the server answers. */
export function addHealth(server: HttpServer): void {
  const schema = {
    summary: 'Is the server there?',
    tags: ['server'],
    security: [],
    response: { 200: z.object({}).describe('It answers.') },
  }
  for (const url of ['/health', '/healthcheck'])
    server.route({ method: ['GET', 'HEAD'], url, schema, handler: async () => ({}) })
}
