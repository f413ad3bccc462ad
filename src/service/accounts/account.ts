// Accounts: whoever sends requests, pays, and is limited.
import { asc, eq, getTableColumns, or, sql } from 'drizzle-orm'
import { typeid } from 'typeid-js'
import { AppError } from '../../errors.ts'
import type { Drizzle, Transaction } from '../db/database.ts'
import { accounts } from '../db/schema.ts'

/** A row of the table; a null limit is no limit. */
export type Account = typeof accounts.$inferSelect

/** What an operator can set. `prepaid`: nothing is accepted that the balance does not cover. */
export type AccountLimits = Pick<Account, 'requestsPerMinute' | 'maxRunningJobs' | 'maxQueuedJobs' | 'prepaid'>

/** The channel on which processes hear that an account or a token is not what it was. */
export const accountsChannel = 'sepia_accounts'

/** A column for `returning` that tells of the change. */
export const accountsChanged = sql`pg_notify(${accountsChannel}, '')`

const namePattern = /^[a-zA-Z0-9._@-]{1,64}$/
/** PostgreSQL's integer. */
const largestLimit = 2 ** 31 - 1

/** Make an account; limits that are not given are none. Throws `bad_argument` for a bad or used name. */
export async function createAccount(
  db: Drizzle | Transaction,
  { name, ...limits }: { readonly name: string } & Partial<AccountLimits>,
): Promise<Account> {
  if (!namePattern.test(name) || name.startsWith('acct_'))
    throw new AppError(
      'bad_argument',
      `name: 1 to 64 letters, digits and . _ @ - that do not begin with acct_, got ${JSON.stringify(name)}`,
    )
  checkLimits(limits)
  const [account] = await db
    .insert(accounts)
    .values({ id: typeid('acct').toString(), name, ...limits })
    .onConflictDoNothing({ target: accounts.name })
    .returning()
  if (!account) throw new AppError('bad_argument', `name: there is an account "${name}" already`)
  return account
}

/** All accounts, oldest first. */
export function listAccounts(db: Drizzle | Transaction): Promise<Account[]> {
  return db.select().from(accounts).orderBy(asc(accounts.createdAt), asc(accounts.id))
}

/** An account by its id or name; null when there is none. */
export async function findAccount(db: Drizzle | Transaction, idOrName: string): Promise<Account | null> {
  const [account] = await db
    .select()
    .from(accounts)
    .where(or(eq(accounts.id, idOrName), eq(accounts.name, idOrName)))
  return account ?? null
}

/** An account by its id or name. Throws `not_found`. */
export async function requireAccount(db: Drizzle | Transaction, idOrName: string): Promise<Account> {
  const account = await findAccount(db, idOrName)
  if (!account) throw new AppError('not_found', `account: there is none with the id or name "${idOrName}"`)
  return account
}

/** Set those limits of an account that are given. Throws `not_found`, `bad_argument`. */
export async function setLimits(
  db: Drizzle | Transaction,
  accountId: string,
  limits: Partial<AccountLimits>,
): Promise<Account> {
  checkLimits(limits)
  if (Object.values(limits).every((limit) => limit === undefined))
    throw new AppError('bad_argument', 'limits: none is given')
  const [changed] = await db
    .update(accounts)
    .set(limits)
    .where(eq(accounts.id, accountId))
    .returning({ ...getTableColumns(accounts), told: accountsChanged })
  if (!changed) throw new AppError('not_found', `account: there is none with the id "${accountId}"`)
  const { told: _, ...account } = changed
  return account
}

function checkLimits(limits: Partial<AccountLimits>): void {
  for (const name of ['requestsPerMinute', 'maxRunningJobs', 'maxQueuedJobs'] as const) {
    const limit = limits[name] ?? null
    if (limit === null) continue
    if (!Number.isInteger(limit) || limit < 0 || limit > largestLimit)
      throw new AppError('bad_argument', `${name}: a whole number from 0 to ${largestLimit}, or null, got ${limit}`)
  }
}
