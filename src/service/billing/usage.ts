// What an account has used: counts and sums over what was captured.
import { and, eq, gte, lt, sql } from 'drizzle-orm'
import type { Drizzle } from '../db/database.ts'
import { assets, jobs, ledgerEntries } from '../db/schema.ts'
import { balanceOf } from './ledger.ts'

/** Micro-dollars, and pictures that were made and charged. */
export type Usage = {
  /** In the time that was asked for. */
  readonly images: number
  readonly spentMicros: bigint
  /** What of that was for keeping assets. */
  readonly storageMicros: bigint
  /** Bytes of ready assets, now. */
  readonly storedBytes: number
  /** Now. */
  readonly heldMicros: bigint
  readonly balanceMicros: bigint
}

/** Use of an account from `from` (included) to `to` (excluded); null is without bound. */
export async function usage(
  db: Drizzle,
  account: { readonly id: string },
  from: Date | null = null,
  to: Date | null = null,
): Promise<Usage> {
  const [sums] = await db
    .select({
      images: sql<number>`coalesce(sum(${jobs.images}), 0)::int`,
      spent: sql<string>`coalesce(sum(${ledgerEntries.spentMicros}), 0)`,
      storage: sql<string>`coalesce(sum(${ledgerEntries.spentMicros})
        filter (where ${ledgerEntries.subjectKind} = 'storage'), 0)`,
    })
    .from(ledgerEntries)
    .leftJoin(jobs, and(eq(ledgerEntries.subjectKind, 'job'), eq(jobs.id, ledgerEntries.subjectId)))
    .where(
      and(
        eq(ledgerEntries.accountId, account.id),
        eq(ledgerEntries.type, 'capture'),
        from ? gte(ledgerEntries.createdAt, from) : undefined,
        to ? lt(ledgerEntries.createdAt, to) : undefined,
      ),
    )
  const { heldMicros, balanceMicros } = await balanceOf(db, account.id)
  const [{ storedBytes }] = await db
    .select({ storedBytes: sql<string>`coalesce(sum(${assets.sizeBytes}), 0)` })
    .from(assets)
    .where(and(eq(assets.accountId, account.id), eq(assets.status, 'ready')))
  return {
    images: sums.images,
    spentMicros: BigInt(sums.spent),
    storageMicros: BigInt(sums.storage),
    storedBytes: Number(storedBytes),
    heldMicros,
    balanceMicros,
  }
}
