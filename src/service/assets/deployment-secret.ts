// The secret with which this deployment signs URLs and session tokens: made up once, kept in the database, so that all
// its processes have the same.
import { createHmac, randomBytes } from 'node:crypto'
import { eq } from 'drizzle-orm'
import type { Drizzle } from '../db/database.ts'
import { secrets } from '../db/schema.ts'

/** A key for one purpose; whoever knows one cannot compute another. */
export type SigningKey = Buffer

/** The deployment's key for `purpose`, made on first use. */
export async function signingKey(db: Drizzle, purpose: string): Promise<SigningKey> {
  await db
    .insert(secrets)
    .values({ name: 'transfers', value: randomBytes(32) })
    .onConflictDoNothing()
  const [{ value }] = await db.select({ value: secrets.value }).from(secrets).where(eq(secrets.name, 'transfers'))
  return createHmac('sha256', value).update(purpose).digest()
}
