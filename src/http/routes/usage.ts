import { z } from 'zod'
import type { HttpContext, HttpServer } from '../context.ts'
import { commonErrors, usageAnswer } from '../schemas/answers.ts'
import { takes } from '../schemas/lenient.ts'

const instant = () => z.iso.datetime({ offset: true, ...takes('a time such as 2026-01-31T00:00:00Z') }).optional()
const usageQuery = z.strictObject({
  from: instant().describe('Use from this time on; all of it when left out.'),
  to: instant().describe('Use before this time.'),
})

/** GET /v1/usage. */
export function addUsage(server: HttpServer, { services }: HttpContext): void {
  const schema = {
    summary: "The account's own use and balance",
    tags: ['account'],
    querystring: usageQuery,
    response: { 200: usageAnswer.describe('Use and balance.'), ...commonErrors },
  }
  server.get('/v1/usage', { schema }, async ({ account, query }) => {
    const [from, to] = [query.from, query.to].map((text) => (text === undefined ? null : new Date(text)))
    const { images, spentMicros, storageMicros, storedBytes, heldMicros, balanceMicros } = await services.usage(
      account,
      from,
      to,
    )
    return {
      account: account.name,
      from: from?.toISOString() ?? null,
      to: to?.toISOString() ?? null,
      images,
      spent_usd: dollars(spentMicros),
      storage_usd: dollars(storageMicros),
      stored_bytes: storedBytes,
      held_usd: dollars(heldMicros),
      balance_usd: account.prepaid ? dollars(balanceMicros) : null,
    }
  })
}

/** Micro-dollars as dollars with all six decimals. */
function dollars(micros: bigint): string {
  const digits = String(micros < 0n ? -micros : micros).padStart(7, '0')
  return `${micros < 0n ? '-' : ''}${digits.slice(0, -6)}.${digits.slice(-6)}`
}
