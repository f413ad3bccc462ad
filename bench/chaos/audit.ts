// After the storm: do the tables, the ledger, the files and what clients saw agree?
import { readdirSync } from 'node:fs'
import path from 'node:path'
import { sql } from 'drizzle-orm'
import { createLogger } from '../../src/logger.ts'
import { balanceOf } from '../../src/service/billing/ledger.ts'
import type { Database } from '../../src/service/db/database.ts'
import { jobs, ledgerEntries } from '../../src/service/db/schema.ts'
import type { BlobStore } from '../../src/service/files/blob-store.ts'
import { openHolds, tidy } from '../../src/service/jobs/housekeeping.ts'
import { maxCrashes, maxLosses } from '../../src/service/jobs/job-transitions.ts'
import { hasEnded } from '../../src/service/jobs/job.ts'
import type { Order } from './clients.ts'

/** Counts of what happened, and everything that should not have. */
export type Audit = {
  readonly orders: number
  readonly succeeded: number
  readonly failed: number
  readonly cancelled: number
  /** Attempts beyond the first. */
  readonly repeated: number
  /** Files that attempts left behind when they were killed, which the sweep removed. */
  readonly swept: number
  readonly violations: readonly string[]
}

type JobRow = typeof jobs.$inferSelect
type Entry = typeof ledgerEntries.$inferSelect

/** Compare everything with everything. The service has ended. */
export async function audit(
  { database, blobs }: { readonly database: Database; readonly blobs: BlobStore },
  orders: readonly Order[],
  cacheDir: string,
): Promise<Audit> {
  const { db } = database
  const rows = await db.select().from(jobs)
  const entries = Map.groupBy(await db.select().from(ledgerEntries), ({ subjectId }) => subjectId)
  const violations = [
    ...ordersAgainstRows(orders, rows),
    ...rows.flatMap((row) => [...stateOf(row), ...moneyOf(row, entries.get(row.id) ?? [])]),
    ...(await openHolds({ database })).map((id) => `${id}: its hold is open`),
    ...(await balances(database, rows)),
    ...(await messages(database)),
    ...scratchFolders(cacheDir),
  ]
  const { files: swept } = await tidy({ database, blobs, log: createLogger('silent'), now: () => new Date() }, 0)
  violations.push(...(await files(blobs, rows)))
  const inState = (state: string): number => rows.filter((row) => row.state === state).length
  return {
    orders: orders.length,
    succeeded: inState('succeeded'),
    failed: inState('failed'),
    cancelled: inState('cancelled'),
    repeated: rows.reduce((sum, { attempt }) => sum + Math.max(0, attempt - 1), 0),
    swept,
    violations,
  }
}

/** Nothing that was accepted is lost, nothing is there twice, and clients were told what is true. */
function ordersAgainstRows(orders: readonly Order[], rows: readonly JobRow[]): string[] {
  const byKey = Map.groupBy(rows, ({ idempotencyKey }) => idempotencyKey ?? '')
  const found = orders.flatMap(({ cancelled, key, status, synchronous }) => {
    const made = byKey.get(key) ?? []
    if (made.length !== 1) return [`order ${key}: ${made.length} jobs`]
    const [{ id, state }] = made
    if (status === null) return [`${id}: its client never heard of its end`]
    if ((status === 200) !== (state === 'succeeded')) return [`${id}: ${state}, but its client got ${status}`]
    // A client that loses its connection to a living server cancels as well.
    if (state === 'cancelled' && !cancelled && !synchronous) return [`${id}: cancelled, but nobody asked for it`]
    return []
  })
  return rows.length === orders.length ? found : [...found, `${orders.length} orders, ${rows.length} jobs`]
}

function stateOf(row: JobRow): string[] {
  const { crashes, error, id, losses, result, state, task } = row
  if (!hasEnded(row)) return [`${id}: is ${state} still`]
  const wrong: string[] = []
  if (task !== null) wrong.push(`${id}: its prompt is kept`)
  if ((state === 'succeeded') !== (result !== null)) wrong.push(`${id}: ${state}, with result ${result !== null}`)
  const mayFail = crashes + 1 >= maxCrashes || losses + 1 >= maxLosses
  if (state === 'failed' && (error?.code !== 'engine_crashed' || !mayFail))
    wrong.push(`${id}: failed after ${crashes} crashes and ${losses} losses: ${error?.code} ${error?.message}`)
  return wrong
}

/** One hold; one capture if it succeeded, one release if not. */
function moneyOf({ id, priceMicros, state }: JobRow, entries: readonly Entry[]): string[] {
  const told = entries.map(({ amountMicros, type }) => `${type} ${amountMicros}`).sort()
  const end = state === 'succeeded' ? 'capture 0' : `release ${priceMicros}`
  const right = [end, `hold ${-priceMicros}`].sort()
  return told.join() === right.join() ? [] : [`${id}: ${state}, and its ledger has ${told.join(', ')}`]
}

async function balances({ db }: Database, rows: readonly JobRow[]): Promise<string[]> {
  const wrong: string[] = []
  for (const [account, own] of Map.groupBy(rows, ({ accountId }) => accountId)) {
    const spent = own.reduce((sum, { priceMicros, state }) => sum + (state === 'succeeded' ? priceMicros : 0n), 0n)
    const { balanceMicros, heldMicros, spentMicros } = await balanceOf(db, account)
    if (balanceMicros !== -spent || heldMicros !== 0n || spentMicros !== spent)
      wrong.push(`${account}: spent ${spent}, its balance says ${spentMicros}, held ${heldMicros}`)
  }
  return wrong
}

async function messages({ db }: Database): Promise<string[]> {
  const { rows } = await db.execute<{ id: string; state: string }>(
    sql`select id, state::text from pgboss.job where state < 'completed' and name like 'generate/%'`,
  )
  return rows.map(({ id, state }) => `message ${id} is ${state} still`)
}

/** Exactly the pictures of what succeeded are stored. */
async function files(blobs: BlobStore, rows: readonly JobRow[]): Promise<string[]> {
  const wanted = new Set(rows.flatMap(({ result }) => result?.images.map(({ key }) => key) ?? []))
  const wrong: string[] = []
  for await (const { key } of blobs.list('')) if (!wanted.delete(key)) wrong.push(`${key}: belongs to nobody`)
  return [...wrong, ...[...wanted].map((key) => `${key}: is lost`)]
}

/** Engine processes leave nothing, however they ended. */
function scratchFolders(cacheDir: string): string[] {
  return readdirSync(path.join(cacheDir, 'scratch')).map((name) => `scratch folder ${name} is left`)
}
