// Administration as plain data: what an operator asks and what comes back, the same beside a running server and without.
import { typeid } from 'typeid-js'
import { z } from 'zod'
import { AppError } from '../../errors.ts'
import { createAccount, listAccounts, requireAccount, setLimits, type Account } from '../accounts/account.ts'
import { createToken, listTokens, revokeToken, type TokenRow } from '../accounts/token.ts'
import { balanceOf, credit } from '../billing/ledger.ts'
import type { LibraryContext } from '../assets/public-library.ts'
import type { Drizzle } from '../db/database.ts'
import { answerAssetCommand, assetCommands, type AssetAnswers } from './asset-commands.ts'

const limit = z.int().min(0).nullable().optional()
const limits = {
  requestsPerMinute: limit,
  maxRunningJobs: limit,
  maxQueuedJobs: limit,
  prepaid: z.boolean().optional(),
}
/** Id or name. */
const account = z.string()

/** What an operator can ask. Money is micro-dollars in digits, for JSON has no integers of 64 bits. */
export const adminCommandSchema = z.discriminatedUnion('command', [
  z.strictObject({ command: z.literal('createAccount'), name: z.string(), ...limits }),
  z.strictObject({ command: z.literal('listAccounts') }),
  z.strictObject({ command: z.literal('limitAccount'), account, ...limits }),
  z.strictObject({
    command: z.literal('creditAccount'),
    account,
    amountMicros: z.string().regex(/^\d{1,18}$/),
    /** Counts once; null makes one up. */
    reference: z.string().nullable(),
  }),
  z.strictObject({ command: z.literal('createToken'), account, name: z.string() }),
  z.strictObject({ command: z.literal('listTokens'), account: account.nullable() }),
  z.strictObject({ command: z.literal('revokeToken'), token: z.string().describe('Id or prefix.') }),
  ...assetCommands,
])

export type AdminCommand = z.infer<typeof adminCommandSchema>

/** An account as JSON; money as in {@link adminCommandSchema}, times as ISO 8601. */
export type AccountEntry = Omit<Account, 'createdAt'> & {
  readonly createdAt: string
  readonly balanceMicros: string
  readonly heldMicros: string
  readonly spentMicros: string
}

/** A token as JSON, without anything that could be used. */
export type TokenEntry = {
  readonly id: string
  /** The account's name. */
  readonly account: string
  readonly name: string
  readonly prefix: string
  readonly createdAt: string
  readonly revokedAt: string | null
}

/** What each command answers. */
export type AdminAnswers = AssetAnswers & {
  readonly createAccount: AccountEntry
  readonly listAccounts: readonly AccountEntry[]
  readonly limitAccount: AccountEntry
  readonly creditAccount: AccountEntry & { readonly reference: string }
  /** The only time that the token itself is told. */
  readonly createToken: TokenEntry & { readonly token: string }
  readonly listTokens: readonly TokenEntry[]
  readonly revokeToken: TokenEntry
}

/** Somebody who carries commands out: the database here, or a running server at the other end of a socket. */
export type Administrator = <Name extends AdminCommand['command']>(
  command: Extract<AdminCommand, { command: Name }>,
) => Promise<AdminAnswers[Name]>

/** What commands are carried out on; without a library those about assets are refused. */
export type Administered = { readonly db: Drizzle; readonly library?: LibraryContext }

/** Carry a command out, checked again, for it may have come over a socket. Throws `bad_argument`, `not_found`. */
export async function administer(
  administered: Administered,
  unchecked: unknown,
): Promise<AdminAnswers[AdminCommand['command']]> {
  const parsed = adminCommandSchema.safeParse(unchecked)
  if (!parsed.success) {
    const [issue] = parsed.error.issues
    throw new AppError('bad_argument', `${issue.path.join('.') || 'command'}: ${issue.message}`, {
      cause: parsed.error,
    })
  }
  return answer(administered, parsed.data)
}

async function answer(
  { db, library }: Administered,
  command: AdminCommand,
): Promise<AdminAnswers[AdminCommand['command']]> {
  switch (command.command) {
    case 'createAccount': {
      const { command: _, ...options } = command
      return accountEntry(db, await createAccount(db, options))
    }
    case 'listAccounts': {
      const entries: AccountEntry[] = []
      for (const account of await listAccounts(db)) entries.push(await accountEntry(db, account))
      return entries
    }
    case 'limitAccount': {
      const { command: _, account: idOrName, ...given } = command
      const { id } = await requireAccount(db, idOrName)
      return accountEntry(db, await setLimits(db, id, given))
    }
    case 'creditAccount': {
      const account = await requireAccount(db, command.account)
      const reference = command.reference ?? typeid('credit').toString()
      await credit(db, account, BigInt(command.amountMicros), reference)
      return { ...(await accountEntry(db, account)), reference }
    }
    case 'createToken': {
      const { id: accountId } = await requireAccount(db, command.account)
      const { id, token } = await createToken(db, accountId, command.name)
      return { ...(await tokenEntry(db, id)), token }
    }
    case 'listTokens': {
      const accountId = command.account === null ? undefined : (await requireAccount(db, command.account)).id
      return tokenEntries(db, await listTokens(db, accountId))
    }
    case 'revokeToken':
      return tokenEntry(db, (await revokeToken(db, command.token)).id)
    case 'addAsset':
    case 'listAssets':
    case 'showAsset':
    case 'removeAsset':
    case 'locateAsset':
    case 'exportAsset':
      if (!library) throw new AppError('bad_argument', `${command.command}: the library is not open here`)
      return answerAssetCommand(library, command)
    default:
      throw new Error(`no command: ${JSON.stringify(command satisfies never)}`)
  }
}

async function accountEntry(db: Drizzle, account: Account): Promise<AccountEntry> {
  const { balanceMicros, heldMicros, spentMicros } = await balanceOf(db, account.id)
  return {
    ...account,
    createdAt: account.createdAt.toISOString(),
    balanceMicros: balanceMicros.toString(),
    heldMicros: heldMicros.toString(),
    spentMicros: spentMicros.toString(),
  }
}

async function tokenEntry(db: Drizzle, id: string): Promise<TokenEntry> {
  const [entry] = await tokenEntries(
    db,
    (await listTokens(db)).filter((token) => token.id === id),
  )
  return entry
}

async function tokenEntries(db: Drizzle, rows: readonly TokenRow[]): Promise<TokenEntry[]> {
  const names = new Map((await listAccounts(db)).map(({ id, name }) => [id, name]))
  return rows.map(({ id, accountId, name, prefix, createdAt, revokedAt }) => ({
    id,
    account: names.get(accountId) ?? accountId,
    name,
    prefix,
    createdAt: createdAt.toISOString(),
    revokedAt: revokedAt?.toISOString() ?? null,
  }))
}
