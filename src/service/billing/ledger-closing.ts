// Sums of the ledger that are taken from time to time, so that a balance costs the same however long the ledger is.
import { sql } from 'drizzle-orm'
import type { Drizzle } from '../db/database.ts'
import { accounts, ledgerClosings, ledgerEntries } from '../db/schema.ts'
import { closingOf, type Balance } from './ledger.ts'

/** So many entries are summed up in no time; below that a closing is not worth its row. */
const entriesWorthClosing = 500

/**
 * Close accounts that have many new entries; returns how many. May run in several processes at once, and again. Waits for
 * open transactions that add entries, two seconds at most: beyond that it rejects, and another time will do.
 */
export async function closeLedger(db: Drizzle, entriesAtLeast: number = entriesWorthClosing): Promise<number> {
  const throughId = await lastSettledId(db)
  const due = await db.execute<{ id: string }>(sql`
    select account.id from ${accounts} account
    where ${entriesAtLeast} <= (
      select count(*) from ${ledgerEntries} entry
      where entry.account_id = account.id and entry.id <= ${throughId} and entry.id > coalesce(
        (select max(through_id) from ${ledgerClosings} closing where closing.account_id = account.id), 0))`)
  for (const { id: accountId } of due.rows) {
    const { balance, throughId: through } = await closingOf(db, accountId, throughId)
    await db
      .insert(ledgerClosings)
      .values({ accountId, throughId: through, ...balance })
      .onConflictDoNothing()
  }
  return due.rows.length
}

/**
 * An id below which nothing can appear any more. Ids are given out before their transactions commit, so the largest one that
 * can be seen says nothing of smaller ones; while nobody else is writing, it does.
 */
function lastSettledId(db: Drizzle): Promise<bigint> {
  return db.transaction(async (tx) => {
    await tx.execute(sql`set local lock_timeout = '2s'`)
    await tx.execute(sql`lock table ${ledgerEntries} in share mode`)
    const { rows } = await tx.execute<{ id: string }>(
      sql`select coalesce(max(id), 0)::text as id from ${ledgerEntries}`,
    )
    return BigInt(rows[0].id)
  })
}

/** Sums over all accounts. */
export async function ledgerTotals(db: Drizzle): Promise<Balance> {
  const { rows } = await db.execute<Record<'balance' | 'held' | 'spent', string>>(sql`
    select
      coalesce(sum(coalesce(closed.balance_micros, 0) + since.balance), 0)::text as balance,
      coalesce(sum(coalesce(closed.held_micros, 0) + since.held), 0)::text as held,
      coalesce(sum(coalesce(closed.spent_micros, 0) + since.spent), 0)::text as spent
    from ${accounts} account
    left join lateral (
      select * from ${ledgerClosings} closing where closing.account_id = account.id order by through_id desc limit 1
    ) closed on true
    cross join lateral (
      select coalesce(sum(amount_micros), 0) as balance, coalesce(sum(held_micros), 0) as held,
        coalesce(sum(spent_micros), 0) as spent
      from ${ledgerEntries} entry
      where entry.account_id = account.id and entry.id > coalesce(closed.through_id, 0)
    ) since`)
  const [{ balance, held, spent }] = rows
  return { balanceMicros: BigInt(balance), heldMicros: BigInt(held), spentMicros: BigInt(spent) }
}
