// Money: entries that are only ever added. What an account has, what is promised and what is spent are sums over them.
import { and, eq, inArray, sql, type SQL } from 'drizzle-orm'
import { AppError } from '../../errors.ts'
import type { Drizzle, Transaction } from '../db/database.ts'
import { accounts, ledgerClosings, ledgerEntries } from '../db/schema.ts'

/** What an entry is about, such as ('job', req_…). */
export type Subject = { readonly subjectKind: string; readonly subjectId: string }

/** Micro-dollars. */
export type Balance = {
  /** What can still be spent: credits less what is held and spent. Below zero where an account is not prepaid. */
  readonly balanceMicros: bigint
  /** Promised to what has not ended yet. */
  readonly heldMicros: bigint
  readonly spentMicros: bigint
}

/**
 * Promise `amountMicros` (≥ 0) to a subject; it counts as gone from the balance at once. Locks the account's row until the
 * transaction ends, so that two holds cannot both spend the last of a balance. Throws `no_credit` where the account is
 * prepaid and its balance too small; a second hold for a subject is `internal`. The transaction must end with what this
 * throws.
 */
export async function hold(
  tx: Transaction,
  { accountId, amountMicros, ...subject }: Subject & { readonly accountId: string; readonly amountMicros: bigint },
): Promise<void> {
  if (amountMicros < 0n) throw broken(subject, `a hold of ${amountMicros} micro-dollars`)
  const { rows } = await tx.execute<{ prepaid: boolean; added: number }>(sql`
    with locked as (
      select id, prepaid from ${accounts} where ${accounts.id} = ${accountId} for no key update
    ), added as (
      insert into ${ledgerEntries} (account_id, type, amount_micros, held_micros, spent_micros, subject_kind, subject_id)
      select id, 'hold', ${-amountMicros}::bigint, ${amountMicros}::bigint, 0, ${subject.subjectKind}, ${subject.subjectId}
      from locked on conflict do nothing returning 1
    )
    select prepaid, (select count(*) from added)::int as added from locked`)
  const account = rows.at(0)
  if (!account) throw noAccount(accountId)
  if (account.added === 0) throw broken(subject, 'a second hold')
  if (!account.prepaid) return
  // What was just written is among the entries; where the balance does not bear it, the transaction takes it back.
  const { balanceMicros } = await balanceOf(tx, accountId)
  if (balanceMicros < 0n)
    throw new AppError(
      'no_credit',
      `credit: this costs ${dollars(amountMicros)}, the balance is ${dollars(balanceMicros + amountMicros)}`,
    )
}

/** Make a hold final. Throws `internal` where there is none, or where it was captured or released before. */
export function capture(tx: Transaction, subject: Subject): Promise<void> {
  return settle(tx, subject, 'capture')
}

/** Give a hold back. Throws `internal` where there is none, or where it was captured or released before. */
export function release(tx: Transaction, subject: Subject): Promise<void> {
  return settle(tx, subject, 'release')
}

/**
 * Take `amountMicros` (> 0) for a subject at once, also where the balance does not cover it: it is owed. False where the
 * subject was charged before.
 */
export async function charge(
  tx: Transaction,
  { accountId, amountMicros, ...subject }: Subject & { readonly accountId: string; readonly amountMicros: bigint },
): Promise<boolean> {
  const held = await tx
    .insert(ledgerEntries)
    .values({
      accountId,
      type: 'hold',
      amountMicros: -amountMicros,
      heldMicros: amountMicros,
      spentMicros: 0n,
      ...subject,
    })
    .onConflictDoNothing()
    .returning({ id: ledgerEntries.id })
  if (held.length === 0) return false
  await capture(tx, subject)
  return true
}

/** Add `amountMicros` (> 0) once for a reference of the operator's, such as an invoice. Throws `bad_argument`. */
export async function credit(
  db: Drizzle | Transaction,
  account: { readonly id: string },
  amountMicros: bigint,
  reference: string,
): Promise<void> {
  if (amountMicros <= 0n || amountMicros > largestCredit)
    throw new AppError(
      'bad_argument',
      `amount: more than 0 and at most ${dollars(largestCredit)}, got ${dollars(amountMicros)}`,
    )
  if (!/^[^\p{C}]{1,128}$/u.test(reference))
    throw new AppError('bad_argument', `reference: 1 to 128 printable characters, got ${JSON.stringify(reference)}`)
  const added = await db
    .insert(ledgerEntries)
    .values({
      accountId: account.id,
      type: 'credit',
      amountMicros,
      heldMicros: 0n,
      spentMicros: 0n,
      subjectKind: 'credit',
      subjectId: reference,
    })
    .onConflictDoNothing()
    .returning({ id: ledgerEntries.id })
  if (added.length === 0)
    throw new AppError('bad_argument', `reference: "${reference}" has been credited already, and nothing was added`)
}

/** What an account has, promised and spent: sums over its entries. */
export async function balanceOf(db: Drizzle | Transaction, accountId: string): Promise<Balance> {
  return (await closingOf(db, accountId, null)).balance
}

/** The sums up to the entry `throughId`, or to the last one: the latest closing before it, and what came after that. */
export async function closingOf(
  db: Drizzle | Transaction,
  accountId: string,
  throughId: bigint | null,
): Promise<{ readonly balance: Balance; readonly throughId: bigint; readonly newEntries: number }> {
  const end = throughId ?? lastBigint
  const { rows } = await db.execute<Record<'balance' | 'held' | 'spent' | 'through' | 'entries', string>>(sql`
    with closed as (
      select * from ${ledgerClosings}
      where ${ledgerClosings.accountId} = ${accountId} and ${ledgerClosings.throughId} <= ${end}
      order by ${ledgerClosings.throughId} desc limit 1
    )
    select
      (coalesce((select balance_micros from closed), 0) + coalesce(sum(amount_micros), 0))::text as balance,
      (coalesce((select held_micros from closed), 0) + coalesce(sum(held_micros), 0))::text as held,
      (coalesce((select spent_micros from closed), 0) + coalesce(sum(spent_micros), 0))::text as spent,
      coalesce(max(id), (select through_id from closed), 0)::text as through,
      count(*)::text as entries
    from ${ledgerEntries}
    where ${ledgerEntries.accountId} = ${accountId}
      and ${ledgerEntries.id} > coalesce((select through_id from closed), 0) and ${ledgerEntries.id} <= ${end}`)
  const [{ balance, held, spent, through, entries }] = rows
  return {
    balance: { balanceMicros: BigInt(balance), heldMicros: BigInt(held), spentMicros: BigInt(spent) },
    throughId: BigInt(through),
    newEntries: Number(entries),
  }
}

/** PostgreSQL's largest bigint. */
const lastBigint = 2n ** 63n - 1n

/** $1000000 */
const largestCredit = 1_000_000_000_000n

/** Micro-dollars as text, such as $0.0053. */
export function dollars(micros: bigint): string {
  const digits = (micros < 0n ? -micros : micros).toString().padStart(7, '0')
  const fraction = digits.slice(-6).replace(/0{1,4}$/, '')
  return `${micros < 0n ? '-' : ''}$${digits.slice(0, -6)}.${fraction}`
}

async function settle(tx: Transaction, subject: Subject, type: 'capture' | 'release'): Promise<void> {
  const { rows } = await tx.execute(settlement(subject, type))
  await requireSettled(tx, subject, type, rows.length)
}

/**
 * A statement that ends a hold and answers with a row, to be used by itself or in a WITH; how many rows it answered with is
 * then for {@link requireSettled}.
 */
export function settlement({ subjectKind, subjectId }: Subject, type: 'capture' | 'release'): SQL {
  const [balance, spent] = type === 'capture' ? [sql`0`, sql`held_micros`] : [sql`held_micros`, sql`0`]
  return sql`
    insert into ${ledgerEntries} (account_id, type, amount_micros, held_micros, spent_micros, subject_kind, subject_id)
    select account_id, ${type}, ${balance}, -held_micros, ${spent}, subject_kind, subject_id from ${ledgerEntries}
    where subject_kind = ${subjectKind} and subject_id = ${subjectId} and type = 'hold'
    on conflict do nothing returning 1`
}

/** Throws `internal` where the subject had no hold, or one that was captured or released before. */
export async function requireSettled(
  tx: Transaction,
  { subjectKind, subjectId }: Subject,
  type: 'capture' | 'release',
  settled: number,
): Promise<void> {
  if (settled === 1) return
  const entries = await tx
    .select({ type: ledgerEntries.type })
    .from(ledgerEntries)
    .where(
      and(
        eq(ledgerEntries.subjectKind, subjectKind),
        eq(ledgerEntries.subjectId, subjectId),
        inArray(ledgerEntries.type, ['capture', 'release']),
      ),
    )
  const subject = { subjectKind, subjectId }
  throw broken(subject, entries.length > 0 ? `a ${type} after its ${entries[0].type}` : `a ${type} without a hold`)
}

/**
 * Lock an account's row until the transaction ends, against others who lock it so; rows that refer to it can still be added.
 * Throws `not_found`.
 */
export async function lockAccount(tx: Transaction, accountId: string): Promise<typeof accounts.$inferSelect> {
  const [account] = await tx.select().from(accounts).where(eq(accounts.id, accountId)).for('no key update')
  if (!account) throw noAccount(accountId)
  return account
}

function noAccount(accountId: string): AppError {
  return new AppError('not_found', `account: there is none with the id "${accountId}"`)
}

/** The service's own mistake, which no client can cause. */
function broken({ subjectKind, subjectId }: Subject, what: string): AppError {
  return new AppError('internal', `ledger of ${subjectKind} ${subjectId}: ${what}`)
}
