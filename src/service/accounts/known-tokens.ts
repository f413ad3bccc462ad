// Accounts of tokens that were seen, so that a client's next request need not ask the database who it is. Only where the
// database belongs to this process alone: there every change is heard of before whoever made it is answered.
import type { Database } from '../db/database.ts'
import { accountsChannel, type Account } from './account.ts'
import { authenticate, hashOf } from './token.ts'

/** Who a token stands for; disposal stops listening. */
export type KnownTokens = AsyncDisposable & {
  /** The account that a token stands for; null for an unknown or revoked one. */
  authenticate(token: string): Promise<Account | null>
}

/** Open on a database; on one that other processes share nothing is remembered. */
export async function openKnownTokens(database: Database): Promise<KnownTokens> {
  const { db, kind } = database
  if (kind === 'postgres') return { authenticate: (token) => authenticate(db, token), async [Symbol.asyncDispose]() {} }
  let known = new Map<string, Account>()
  const forget = (): void => void (known = new Map())
  const stop = await database.listen(accountsChannel, forget, forget)
  return {
    async authenticate(token) {
      const hash = hashOf(token).toString('base64')
      const before = known
      const account = before.get(hash) ?? (await authenticate(db, token))
      // What changed while the database was asked has put another map in the place of this one.
      if (account) before.set(hash, account)
      return account
    },
    [Symbol.asyncDispose]: stop,
  }
}
