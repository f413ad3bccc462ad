// In which order a free engine process looks into the queues: first where its models are loaded already, unless somebody
// has waited too long elsewhere.
import { and, eq, inArray, min } from 'drizzle-orm'
import type { Drizzle } from '../db/database.ts'
import { jobs } from '../db/schema.ts'

/** How long jobs of other models may be passed over, in milliseconds. */
export const affinityMs = 30_000

/** The queues that may have work, in the order in which to ask them. `loaded` is that of the process's models. */
export async function queuesInOrder(
  db: Drizzle,
  queues: readonly string[],
  loaded: string | null,
  now: Date,
): Promise<readonly string[]> {
  if (queues.length < 2) return queues
  const waiting = await db
    .select({ queue: jobs.queue, oldest: min(jobs.createdAt), turn: min(jobs.turn) })
    .from(jobs)
    .where(and(eq(jobs.state, 'queued'), inArray(jobs.queue, queues)))
    .groupBy(jobs.queue)
  const heads = waiting.map(({ queue, oldest, turn }) => {
    const ageMs = oldest ? now.getTime() - oldest.getTime() : 0
    return { queue, turn: turn ?? 0, ageMs, rank: ageMs > affinityMs ? 0 : queue === loaded ? 1 : 2 }
  })
  heads.sort((a, b) => a.rank - b.rank || a.turn - b.turn || b.ageMs - a.ageMs)
  return heads.map(({ queue }) => queue)
}
