import { sql } from 'drizzle-orm'
import { AppError } from '../../errors.ts'
import { createAccount, listAccounts, type Account } from '../accounts/account.ts'
import { createToken, isTokenKnown } from '../accounts/token.ts'
import { publicOwner } from '../assets/asset.ts'
import type { Drizzle } from '../db/database.ts'

/** Any number of this database that nobody else takes for an advisory lock. */
const firstAccountLock = 0x53455041

/**
 * On an empty database make the account "default" and its token, `given` or made up, and give both back for printing once;
 * null where there are accounts already. Of several processes that start at once, one does so. Throws `bad_argument` for
 * a `given` token that cannot be one, or that this database has never known though it has accounts.
 */
export function firstAccount(
  db: Drizzle,
  given: string | null,
): Promise<{ readonly account: Account; readonly token: string } | null> {
  return db.transaction(async (tx) => {
    await tx.execute(sql`select pg_advisory_xact_lock(${firstAccountLock})`)
    // The library's owner comes with the library, and nobody is it.
    const accounts = (await listAccounts(tx)).filter(({ name }) => name !== publicOwner)
    if (accounts.length === 0) {
      const account = await createAccount(tx, { name: 'default' })
      const { token } = await createToken(tx, account.id, 'first', given ?? undefined)
      return { account, token }
    }
    if (given !== null && !(await isTokenKnown(tx, given)))
      throw new AppError(
        'bad_argument',
        'SEPIA_TOKEN: this server has accounts already, and none has this token; ' +
          'it sets the first start’s token, and `sepia tokens create` makes more',
      )
    return null
  })
}
