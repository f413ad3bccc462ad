// Tokens: secrets that stand for an account. Only their SHA-256 is kept; it needs no salt, for a token is 256 random bits.
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import { and, asc, eq, isNull, like, or } from 'drizzle-orm'
import { typeid } from 'typeid-js'
import { AppError } from '../../errors.ts'
import type { Drizzle, Transaction } from '../db/database.ts'
import { accounts, tokens } from '../db/schema.ts'
import { accountsChanged, type Account } from './account.ts'

/** A token as a list shows it, without anything that could be used. */
export type TokenRow = Omit<typeof tokens.$inferSelect, 'hash'>

/** A token as it is shown once, when it is made. */
export type NewToken = { readonly id: string; readonly token: string; readonly prefix: string }

const scheme = 'sepia_'
const randomByteCount = 32
/** What a list shows of a token of ours: the scheme and 36 of the 256 bits. */
const prefixLength = scheme.length + 6
/** What can follow "Bearer " in a header (RFC 6750, b64token). */
const givenPattern = /^(?=.{16,256}$)[A-Za-z0-9._~+/-]+=*$/
const listed = {
  id: tokens.id,
  accountId: tokens.accountId,
  name: tokens.name,
  prefix: tokens.prefix,
  createdAt: tokens.createdAt,
  revokedAt: tokens.revokedAt,
}

/**
 * Make a token, 'sepia_' and 256 random bits in base64url; `given` takes the operator's own. `name` says what it is for.
 * Throws `bad_argument`.
 */
export async function createToken(
  db: Drizzle | Transaction,
  accountId: string,
  name: string,
  given?: string,
): Promise<NewToken> {
  if (!/^[^\p{C}]{1,64}$/u.test(name))
    throw new AppError('bad_argument', `name: 1 to 64 printable characters, got ${JSON.stringify(name)}`)
  if (given !== undefined && !givenPattern.test(given))
    // The value is a secret, so it is not repeated.
    throw new AppError('bad_argument', 'token: 16 to 256 letters, digits and - . _ ~ + /, then any number of =')
  const token = given ?? scheme + randomBytes(randomByteCount).toString('base64url')
  // Of a given token, which may be short, a quarter at most.
  const prefix = token.slice(0, given === undefined ? prefixLength : Math.min(prefixLength, token.length >> 2))
  const id = typeid('tok').toString()
  const [made] = await db
    .insert(tokens)
    .values({ id, accountId, name, hash: hashOf(token), prefix })
    .onConflictDoNothing({ target: tokens.hash })
    .returning({ id: tokens.id })
  if (!made) throw new AppError('bad_argument', 'token: this one is in use already, or was and is revoked')
  return { id, token, prefix }
}

/** All tokens, or those of one account, oldest first; revoked ones too. */
export function listTokens(db: Drizzle | Transaction, accountId?: string): Promise<TokenRow[]> {
  return db
    .select(listed)
    .from(tokens)
    .where(accountId === undefined ? undefined : eq(tokens.accountId, accountId))
    .orderBy(asc(tokens.createdAt), asc(tokens.id))
}

/**
 * Revoke the token with this id, or with a prefix that only one has; a second time changes nothing. Throws `not_found`,
 * and `bad_argument` when the prefix fits several.
 */
export async function revokeToken(
  db: Drizzle | Transaction,
  idOrPrefix: string,
  now: Date = new Date(),
): Promise<TokenRow> {
  const found = await db
    .select(listed)
    .from(tokens)
    .where(or(eq(tokens.id, idOrPrefix), eq(tokens.prefix, idOrPrefix), like(tokens.prefix, startingWith(idOrPrefix))))
  if (found.length === 0) throw new AppError('not_found', `token: there is none with the id or prefix "${idOrPrefix}"`)
  if (found.length > 1)
    throw new AppError(
      'bad_argument',
      `token: "${idOrPrefix}" fits ${found.length} tokens; name one by its id: ${found.map(({ id }) => id).join(', ')}`,
    )
  const [token] = found
  const [revoked] = await db
    .update(tokens)
    .set({ revokedAt: now })
    .where(and(eq(tokens.id, token.id), isNull(tokens.revokedAt)))
    .returning({ ...listed, told: accountsChanged })
  if (!revoked) return token
  const { told: _, ...row } = revoked
  return row
}

/** The account that a token stands for; null for an unknown or revoked one. */
export async function authenticate(db: Drizzle | Transaction, token: string): Promise<Account | null> {
  const hash = hashOf(token)
  const [found] = await db
    .select({ hash: tokens.hash, account: accounts })
    .from(tokens)
    .innerJoin(accounts, eq(accounts.id, tokens.accountId))
    .where(and(eq(tokens.hash, hash), isNull(tokens.revokedAt)))
  // The index compared hashes, whose timing tells nothing of a token; this leaves nothing to the index.
  return found && timingSafeEqual(found.hash, hash) ? found.account : null
}

/** Whether a token was ever made here, revoked or not. */
export async function isTokenKnown(db: Drizzle | Transaction, token: string): Promise<boolean> {
  const found = await db
    .select({ id: tokens.id })
    .from(tokens)
    .where(eq(tokens.hash, hashOf(token)))
  return found.length > 0
}

/** SHA-256 of a token. */
export function hashOf(token: string): Buffer {
  return createHash('sha256').update(token, 'utf8').digest()
}

/** A pattern of LIKE for texts that begin with `text`. */
function startingWith(text: string): string {
  return `${text.replaceAll(/[\\%_]/g, (character) => `\\${character}`)}%`
}
