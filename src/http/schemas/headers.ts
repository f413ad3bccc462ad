import { z } from 'zod'

/** Headers of the routes that make pictures. All others are let through; these two are read where they are used. */
export const asyncHeaders = z.looseObject({
  'x-octoai-async': z.string().optional().describe('`1` or `true`: answer at once with a poll_url.'),
  'idempotency-key': z
    .string()
    .optional()
    .describe(
      'The same key with the same body is the same request, however often it is sent; with another body it is a 422.',
    ),
})
