// What keeping assets costs: once a day and account, for the bytes above what is free, as an entry of the ledger that
// cannot be made twice.
import { sql } from 'drizzle-orm'
import type { Logger } from '../../logger.ts'
import type { Drizzle } from '../db/database.ts'
import { accounts, assets } from '../db/schema.ts'
import { charge } from './ledger.ts'
import type { PriceList } from './price-list.ts'

/** Days of a month, for prices: a year's days over its months, in thousandths. */
const monthMilliDays = 30_437n
const gigabyte = 1_000_000_000n

/** Price of keeping `sizeBytes` for a day, in micro-dollars, rounded half up. */
export function storagePrice({ storage }: PriceList, sizeBytes: bigint): bigint {
  const charged = sizeBytes - BigInt(storage.freeGb) * gigabyte
  if (charged <= 0n) return 0n
  const numerator = charged * BigInt(storage.microsPerGbMonth) * 1_000n
  const denominator = gigabyte * monthMilliDays
  return (2n * numerator + denominator) / (2n * denominator)
}

/** Bytes of ready assets, an account each; the same file counts for everybody who keeps it. */
export async function storedBytes(db: Drizzle): Promise<readonly { accountId: string; sizeBytes: bigint }[]> {
  const { rows } = await db.execute<{ account: string; bytes: string }>(sql`
    select ${accounts.id} as account, coalesce(sum(${assets.sizeBytes}), 0)::text as bytes
    from ${accounts} join ${assets} on ${assets.accountId} = ${accounts.id}
    where ${assets.status} = 'ready' and ${assets.deletedAt} is null
    group by ${accounts.id}`)
  return rows.map(({ account, bytes }) => ({ accountId: account, sizeBytes: BigInt(bytes) }))
}

/** Charge the day of `now` (UTC) for what is stored; a second time on the same day changes nothing. Returns how many were charged. */
export async function chargeStorage(db: Drizzle, prices: PriceList, now: Date): Promise<number> {
  const day = now.toISOString().slice(0, 10)
  let charged = 0
  for (const { accountId, sizeBytes } of await storedBytes(db)) {
    const amountMicros = storagePrice(prices, sizeBytes)
    if (amountMicros === 0n) continue
    const subject = { subjectKind: 'storage', subjectId: `${accountId}/${day}` }
    if (await db.transaction((tx) => charge(tx, { accountId, amountMicros, ...subject }))) charged++
  }
  return charged
}

const everyMs = 60 * 60 * 1000

/** Charge now and every hour until disposal, so that no day is left out as long as the service runs. */
export async function startStorageCharge(
  db: Drizzle,
  prices: PriceList,
  { log, now }: { readonly log: Logger; readonly now: () => Date },
): Promise<AsyncDisposable> {
  const run = async (): Promise<void> => {
    try {
      const charged = await chargeStorage(db, prices, now())
      if (charged > 0) log.info({ accounts: charged }, 'storage charged')
    } catch (error) {
      // The next round tries again.
      log.error({ err: error }, 'storage could not be charged')
    }
  }
  await run()
  let working: Promise<void> | null = null
  const timer = setInterval(() => {
    working ??= run().finally(() => (working = null))
  }, everyMs)
  return {
    async [Symbol.asyncDispose]() {
      clearInterval(timer)
      await working
    },
  }
}
