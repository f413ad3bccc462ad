// Requests a minute, counted in the database so that the limit holds across all API processes.
import { and, eq, lt, sql } from 'drizzle-orm'
import { AppError } from '../../errors.ts'
import type { Drizzle, Transaction } from '../db/database.ts'
import { requestCounts } from '../db/schema.ts'
import type { Account } from './account.ts'

const minuteMs = 60_000

/**
 * Count a request of the account's in the clock minute of `now`. Throws `rate_limited`, with the seconds to the next
 * minute, once the minute has as many as the account may send.
 */
export async function takeRequest(db: Drizzle | Transaction, account: Account, now: Date): Promise<void> {
  const limit = account.requestsPerMinute
  if (limit === null) return
  const minute = new Date(Math.floor(now.getTime() / minuteMs) * minuteMs)
  const count = limit === 0 ? null : await countOne(db, account.id, minute, limit)
  if (count === null) {
    const retryAfterSeconds = Math.max(1, Math.ceil((minute.getTime() + minuteMs - now.getTime()) / 1000))
    throw new AppError('rate_limited', `requests: the account "${account.name}" may send ${limit} a minute`, {
      retryAfterSeconds,
    })
  }
  if (count === 1)
    await db.delete(requestCounts).where(and(eq(requestCounts.accountId, account.id), lt(requestCounts.minute, minute)))
}

/** The minute's count with this request, or null when it is full; one statement, so that none is counted twice. */
async function countOne(
  db: Drizzle | Transaction,
  accountId: string,
  minute: Date,
  limit: number,
): Promise<number | null> {
  const [row] = await db
    .insert(requestCounts)
    .values({ accountId, minute, count: 1 })
    .onConflictDoUpdate({
      target: [requestCounts.accountId, requestCounts.minute],
      set: { count: sql`${requestCounts.count} + 1` },
      setWhere: lt(requestCounts.count, limit),
    })
    .returning({ count: requestCounts.count })
  return row?.count ?? null
}
