import { readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import * as fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createAccount, setLimits, type Account } from '../../src/service/accounts/account.ts'
import { closeLedger, ledgerTotals } from '../../src/service/billing/ledger-closing.ts'
import {
  balanceOf,
  capture,
  closingOf,
  credit,
  dollars,
  hold,
  release,
  type Balance,
  type Subject,
} from '../../src/service/billing/ledger.ts'
import { defaultPrices, loadPriceList, type PriceList } from '../../src/service/billing/price-list.ts'
import { priceOf, type PriceInput } from '../../src/service/billing/price.ts'
import { usage } from '../../src/service/billing/usage.ts'
import type { Database } from '../../src/service/db/database.ts'
import { jobs, ledgerEntries } from '../../src/service/db/schema.ts'
import { temporaryFolder } from '../support/temporary-folder.ts'
import { databaseKinds, openTestDatabase } from '../support/test-database.ts'

describe('prices', () => {
  const order: PriceInput = {
    steps: 30,
    width: 1024,
    height: 1024,
    premium: false,
    custom: false,
    controlnet: false,
    photoMerge: false,
    images: 1,
  }

  it.each<[string, Partial<PriceInput>, number]>([
    ['30 steps', {}, 4_000],
    ['40 steps', { steps: 40 }, 5_333],
    ['40 steps with DPM_2_ANCESTRAL', { steps: 40, premium: true }, 10_667],
    ['60 steps of a custom model', { steps: 60, custom: true }, 16_000],
    ['60 steps of a custom model with DPM_2', { steps: 60, custom: true, premium: true }, 32_000],
    ['a ControlNet', { controlnet: true }, 8_000],
    ['a ControlNet with a custom model', { controlnet: true, custom: true }, 8_000],
    ['Photo Merge', { photoMerge: true }, 15_000],
    ['Photo Merge with a ControlNet and a custom model', { photoMerge: true, controlnet: true, custom: true }, 15_000],
    ['another size', { width: 640, height: 1536 }, 3_750],
    ['four pictures', { images: 4 }, 16_000],
    // 133.33… each, so 133: rounded before it is multiplied.
    ['one step', { steps: 1 }, 133],
    ['sixteen pictures of one step', { steps: 1, images: 16 }, 16 * 133],
    ['one step of a wide picture', { steps: 1, width: 1344, height: 768 }, 131],
  ])('%s', (_, input, micros) => {
    expect(priceOf(defaultPrices, { ...order, ...input })).toBe(BigInt(micros))
  })

  it('are rounded half up', () => {
    const prices: PriceList = { ...defaultPrices, image: { ...defaultPrices.image, sdxlMicros: 1, steps: 2 } }
    expect(priceOf(prices, { ...order, steps: 1 })).toBe(1n)
    expect(priceOf(prices, { ...order, steps: 3 })).toBe(2n)
    expect(priceOf({ ...prices, image: { ...prices.image, steps: 200 } }, { ...order, steps: 99 })).toBe(0n)
  })

  it('are within half a micro-dollar of the formula, and never fall with steps or size', () => {
    const inputs = fc.record({
      steps: fc.integer({ min: 1, max: 200 }),
      width: fc.integer({ min: 64, max: 2048 }),
      height: fc.integer({ min: 64, max: 2048 }),
      premium: fc.boolean(),
      custom: fc.boolean(),
      controlnet: fc.boolean(),
      photoMerge: fc.boolean(),
      images: fc.integer({ min: 1, max: 16 }),
    })
    fc.assert(
      fc.property(inputs, (input) => {
        const base = input.photoMerge ? 15_000 : input.custom || input.controlnet ? 8_000 : 4_000
        const exact = base * (input.steps / 30) * ((input.width * input.height) / 1024 ** 2) * (input.premium ? 2 : 1)
        const each = Number(priceOf(defaultPrices, { ...input, images: 1 }))
        expect(Math.abs(each - exact)).toBeLessThanOrEqual(0.5 + 1e-6)
        expect(priceOf(defaultPrices, input)).toBe(BigInt(each) * BigInt(input.images))
        expect(priceOf(defaultPrices, { ...input, steps: input.steps + 1 })).toBeGreaterThanOrEqual(
          priceOf(defaultPrices, input),
        )
      }),
    )
  })

  it('are in the document for operators', async () => {
    const document = await readFile(path.join(import.meta.dirname, '../../docs/accounts.md'), 'utf8')
    expect(JSON.parse(/^```json\n([^]*?)```/m.exec(document)![1])).toEqual(defaultPrices)
  })

  it('come from an operator’s file, whole or not at all', async () => {
    const file = path.join(await temporaryFolder('prices'), 'prices.json')
    const list: PriceList = { ...defaultPrices, image: { ...defaultPrices.image, sdxlMicros: 0 } }
    await writeFile(file, JSON.stringify(list))
    expect(await loadPriceList(file)).toEqual(list)
    const refusals: [unknown, RegExp][] = [
      [{ ...list, image: { ...list.image, sdxlMicros: 1.5 } }, /: image\.sdxlMicros: /],
      [{ ...list, image: { ...list.image, sdxlMicros: -1 } }, /: image\.sdxlMicros: /],
      [{ ...list, image: { ...list.image, extra: 1 } }, /: image: .*extra/],
      [{ image: list.image, tune: list.tune }, /: storage: /],
      [[], /: the whole: /],
    ]
    for (const [value, message] of refusals) {
      await writeFile(file, JSON.stringify(value))
      await expect(loadPriceList(file)).rejects.toMatchObject({
        code: 'bad_argument',
        message: expect.stringMatching(message),
      })
    }
    await writeFile(file, '{')
    await expect(loadPriceList(file)).rejects.toThrow(/^price list .*prices\.json: no JSON \(/)
    await expect(loadPriceList(`${file}.not`)).rejects.toThrow(/: cannot be read \(ENOENT\)$/)
  })
})

it.each([
  [0n, '$0.00'],
  [5_333n, '$0.005333'],
  [16_000n, '$0.016'],
  [12_500_000n, '$12.50'],
  [-4_000n, '-$0.004'],
  [1_000_000_000_000n, '$1000000.00'],
])('%d micro-dollars are %s', (micros, text) => {
  expect(dollars(micros)).toBe(text)
})

/** Resolves once a query of the server waits for a lock. */
async function somebodyWaits(db: Database['db']): Promise<void> {
  for (;;) {
    const { rows } = await db.execute('select 1 from pg_locks where not granted')
    if (rows.length > 0) return
  }
}

describe.each(databaseKinds)('the ledger (%s)', (kind) => {
  let database: Database
  let names = 0
  const newAccount = (prepaid: boolean): Promise<Account> =>
    createAccount(database.db, { name: `account-${++names}`, prepaid })
  const subjectOf = (id: number): Subject => ({ subjectKind: 'job', subjectId: `req_${names}_${id}` })
  const holdOne = ({ id: accountId }: Account, subject: Subject, amountMicros: bigint): Promise<void> =>
    database.db.transaction((tx) => hold(tx, { accountId, amountMicros, ...subject }))
  const end = (how: typeof capture, subject: Subject): Promise<void> =>
    database.db.transaction((tx) => how(tx, subject))

  beforeAll(async () => {
    database = await openTestDatabase(kind)
  })
  afterAll(() => database[Symbol.asyncDispose]())

  it('holds on acceptance, captures on success, releases otherwise', async () => {
    const { db } = database
    const account = await newAccount(true)
    await credit(db, account, 10_000n, `invoice-${names}`)
    await holdOne(account, subjectOf(1), 4_000n)
    await holdOne(account, subjectOf(2), 5_333n)
    expect(await balanceOf(db, account.id)).toEqual({ balanceMicros: 667n, heldMicros: 9_333n, spentMicros: 0n })
    await end(capture, subjectOf(1))
    await end(release, subjectOf(2))
    expect(await balanceOf(db, account.id)).toEqual({ balanceMicros: 6_000n, heldMicros: 0n, spentMicros: 4_000n })
  })

  it('refuses a prepaid account what its balance does not cover, and nothing to others', async () => {
    const { db } = database
    const account = await newAccount(true)
    await credit(db, account, 5_000n, `invoice-${names}`)
    await expect(holdOne(account, subjectOf(1), 5_001n)).rejects.toMatchObject({
      code: 'no_credit',
      message: 'credit: this costs $0.005001, the balance is $0.005',
    })
    await holdOne(account, subjectOf(2), 5_000n)
    await holdOne(account, subjectOf(3), 0n)
    await setLimits(db, account.id, { prepaid: false })
    await holdOne(account, subjectOf(4), 1n)
    expect(await balanceOf(db, account.id)).toEqual({ balanceMicros: -1n, heldMicros: 5_001n, spentMicros: 0n })
  })

  it('ends a hold once', async () => {
    const account = await newAccount(false)
    await holdOne(account, subjectOf(1), 4_000n)
    await expect(holdOne(account, subjectOf(1), 4_000n)).rejects.toThrow(/: a second hold$/)
    await expect(end(capture, subjectOf(9))).rejects.toThrow(/: a capture without a hold$/)
    await end(capture, subjectOf(1))
    await expect(end(capture, subjectOf(1))).rejects.toThrow(/: a capture after its capture$/)
    await expect(end(release, subjectOf(1))).rejects.toThrow(/: a release after its capture$/)
    await holdOne(account, subjectOf(2), 4_000n)
    await end(release, subjectOf(2))
    await expect(end(capture, subjectOf(2))).rejects.toThrow(/: a capture after its release$/)
    const raced = await Promise.allSettled(
      Array.from({ length: 6 }, async (_, index) => {
        if (index === 0) await holdOne(account, subjectOf(3), 7n)
        return end(index % 2 === 0 ? capture : release, subjectOf(3))
      }),
    )
    expect(raced.filter(({ status }) => status === 'fulfilled').length).toBeLessThanOrEqual(1)
  })

  it('lets one of many win that end the same hold at once', async () => {
    const { db } = database
    const account = await newAccount(false)
    await holdOne(account, subjectOf(1), 4_000n)
    const raced = await Promise.allSettled(
      Array.from({ length: 8 }, (_, index) => end(index % 2 === 0 ? capture : release, subjectOf(1))),
    )
    expect(raced.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
    const { heldMicros, balanceMicros, spentMicros } = await balanceOf(db, account.id)
    expect(heldMicros).toBe(0n)
    expect(balanceMicros).toBe(-spentMicros)
  })

  it('never spends the last of a balance twice', async () => {
    const { db } = database
    const account = await newAccount(true)
    await credit(db, account, 10_000n, `invoice-${names}`)
    const raced = await Promise.allSettled(
      Array.from({ length: 12 }, (_, index) => holdOne(account, subjectOf(index), 3_000n)),
    )
    expect(raced.filter(({ status }) => status === 'fulfilled')).toHaveLength(3)
    expect(await balanceOf(db, account.id)).toMatchObject({ balanceMicros: 1_000n, heldMicros: 9_000n })
  })

  it('takes a credit once for its reference, and only a positive one', async () => {
    const { db } = database
    const account = await newAccount(true)
    const other = await newAccount(true)
    await credit(db, account, 1n, `once-${names}`)
    await expect(credit(db, account, 1n, `once-${names}`)).rejects.toThrow(/has been credited already/)
    await expect(credit(db, other, 1n, `once-${names}`)).rejects.toThrow(/has been credited already/)
    for (const amount of [0n, -1n, 1_000_000_000_001n])
      await expect(credit(db, account, amount, `bad-${amount}`)).rejects.toMatchObject({ code: 'bad_argument' })
    expect((await balanceOf(db, account.id)).balanceMicros).toBe(1n)
  })

  it('cannot be changed, not even by hand', async () => {
    const { db } = database
    const account = await newAccount(false)
    await credit(db, account, 1_000n, `fixed-${names}`)
    const messageOf = async (statement: string): Promise<string> => {
      try {
        await db.execute(statement)
      } catch (error) {
        return String((error as Error).cause)
      }
      return 'it could'
    }
    for (const statement of [
      'update ledger_entries set amount_micros = 2',
      'delete from ledger_entries',
      'truncate ledger_entries',
    ])
      expect(await messageOf(statement)).toMatch('ledger entries are never changed')
    for (const [type, ...moved] of [
      ['credit', -1, 0, 0],
      ['credit', 1, 1, 0],
      ['hold', 1, -1, 0],
      ['hold', -1, 0, 0],
      ['capture', 1, -1, 0],
      ['capture', 0, -1, 0],
      ['release', -1, 1, 0],
      ['release', 1, -1, 1],
      ['gift', 1, 0, 0],
    ])
      expect(
        await messageOf(
          `insert into ledger_entries
             (account_id, type, amount_micros, held_micros, spent_micros, subject_kind, subject_id)
           values ('${account.id}', '${type}', ${moved.join()}, 'job', 'movement')`,
        ),
      ).toMatch('ledger_movement')
  })

  it('agrees with a model whatever happens in whatever order, and no prepaid balance falls below zero', async () => {
    const { db } = database
    const event = fc.oneof(
      fc.record({ type: fc.constantFrom('credit', 'close'), amount: fc.integer({ min: 1, max: 20 }) }),
      fc.record({
        type: fc.constantFrom('hold', 'capture', 'release'),
        subject: fc.nat(4),
        amount: fc.integer({ min: 0, max: 20 }),
      }),
    )
    await fc.assert(
      fc.asyncProperty(fc.array(event, { maxLength: 25 }), fc.boolean(), async (events, prepaid) => {
        const account = await newAccount(prepaid)
        let credited = 0n
        let lowest = 0n
        const holds = new Map<number, { amount: bigint; state: 'held' | 'captured' | 'released' }>()
        const sum = (state: string): bigint =>
          [...holds.values()].reduce((total, one) => total + (one.state === state ? one.amount : 0n), 0n)
        const model = (): Balance => ({
          balanceMicros: credited - sum('held') - sum('captured'),
          heldMicros: sum('held'),
          spentMicros: sum('captured'),
        })
        for (const [index, one] of events.entries()) {
          const amount = BigInt(one.amount)
          if (one.type === 'close') {
            await closeLedger(db, 1)
            continue
          }
          if (!('subject' in one)) {
            await credit(db, account, amount, `random-${names}-${index}`)
            credited += amount
            continue
          }
          const known = holds.get(one.subject)
          const allowed =
            one.type === 'hold' ? !known && (!prepaid || model().balanceMicros >= amount) : known?.state === 'held'
          const [done] = await Promise.allSettled([
            one.type === 'hold'
              ? holdOne(account, subjectOf(one.subject), amount)
              : end(one.type === 'capture' ? capture : release, subjectOf(one.subject)),
          ])
          expect({ ...one, status: done.status }).toEqual({ ...one, status: allowed ? 'fulfilled' : 'rejected' })
          if (allowed && one.type === 'hold') holds.set(one.subject, { amount, state: 'held' })
          else if (allowed) holds.get(one.subject)!.state = one.type === 'capture' ? 'captured' : 'released'
          lowest = model().balanceMicros < lowest ? model().balanceMicros : lowest
        }
        expect(prepaid ? lowest : 0n).toBe(0n)
        expect(await balanceOf(db, account.id)).toEqual(model())
      }),
      { numRuns: 40, seed: 4 },
    )
  })

  it('agrees with itself when events come at once from everywhere', async () => {
    const { db } = database
    await fc.assert(
      fc.asyncProperty(fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 4, maxLength: 12 }), async (amounts) => {
        const account = await newAccount(true)
        await credit(db, account, 20n, `burst-${names}`)
        await Promise.allSettled(
          amounts.map(async (amount, index) => {
            const subject = subjectOf(index)
            await holdOne(account, subject, BigInt(amount))
            expect((await balanceOf(db, account.id)).balanceMicros).toBeGreaterThanOrEqual(0n)
            if (index % 3 !== 0) await Promise.allSettled([end(capture, subject), end(release, subject)])
            if (index % 4 === 0) await closeLedger(db, 1)
          }),
        )
        const rows = await db.select().from(ledgerEntries)
        const own = rows.filter((row) => row.accountId === account.id)
        const total = own.reduce((sum, row) => sum + row.amountMicros, 0n)
        const { balanceMicros, heldMicros, spentMicros } = await balanceOf(db, account.id)
        expect(balanceMicros).toBe(total)
        expect(balanceMicros).toBeGreaterThanOrEqual(0n)
        expect(balanceMicros + heldMicros + spentMicros).toBe(20n)
      }),
      { numRuns: 10, seed: 4 },
    )
  })

  it('costs the same however long it is: closings are sums up to an entry, and change no balance', async () => {
    const { db } = database
    const account = await newAccount(true)
    await credit(db, account, 1_000_000n, `long-${names}`)
    const sumsBefore = await ledgerTotals(db)
    await db.execute(
      `insert into ledger_entries (account_id, type, amount_micros, held_micros, spent_micros, subject_kind, subject_id)
       select '${account.id}', type, case type when 'hold' then -3 else 0 end, case type when 'hold' then 3 else -3 end,
         case type when 'hold' then 0 else 3 end, 'job', '${account.id}-' || number
       from generate_series(1, 2000) number, unnest(array['hold', 'capture']) type`,
    )
    await holdOne(account, subjectOf(1), 500n)
    const balance = { balanceMicros: 993_500n, heldMicros: 500n, spentMicros: 6_000n }
    const totals = {
      balanceMicros: sumsBefore.balanceMicros - 6_500n,
      heldMicros: sumsBefore.heldMicros + 500n,
      spentMicros: sumsBefore.spentMicros + 6_000n,
    }
    expect(await balanceOf(db, account.id)).toEqual(balance)
    expect(await ledgerTotals(db)).toEqual(totals)
    const closed = await Promise.all([closeLedger(db), closeLedger(db), closeLedger(db)])
    expect(Math.max(...closed)).toBe(1)
    expect(await closeLedger(db)).toBe(0)
    expect(await closingOf(db, account.id, null)).toMatchObject({ balance, newEntries: 0 })
    expect(await ledgerTotals(db)).toEqual(totals)
    await end(capture, subjectOf(1))
    expect(await closingOf(db, account.id, null)).toMatchObject({
      balance: { balanceMicros: 993_500n, heldMicros: 0n, spentMicros: 6_500n },
      newEntries: 1,
    })
  })

  it('is not closed past entries whose transaction is still open', async () => {
    const { db } = database
    const account = await newAccount(true)
    await credit(db, account, 1_000n, `open-${names}`)
    const [inserted, finish] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
    const early = db.transaction(async (tx) => {
      await hold(tx, { accountId: account.id, amountMicros: 10n, ...subjectOf(1) })
      inserted.resolve()
      await finish.promise
    })
    await inserted.promise
    // A later entry that is there before the earlier one. PGlite has one connection, so there it comes after it.
    const later = credit(db, account, 1n, `later-${names}`)
    if (kind === 'postgres') await later
    const closing = closeLedger(db, 1)
    if (kind === 'postgres') await Promise.race([closing, somebodyWaits(db)])
    finish.resolve()
    await Promise.all([early, later, closing])
    await holdOne(account, subjectOf(2), 100n)
    await closeLedger(db, 1)
    expect(await balanceOf(db, account.id)).toEqual({ balanceMicros: 891n, heldMicros: 110n, spentMicros: 0n })
  })

  it('tells use: pictures that were charged, in a time', async () => {
    const { db } = database
    const account = await newAccount(true)
    await credit(db, account, 100_000n, `use-${names}`)
    const dayOf = (day: number): Date => new Date(Date.UTC(2024, 4, day))
    const addJob = async (index: number, day: number, images: number, ends: 'capture' | 'release' | null) => {
      const subject = subjectOf(index)
      const micros = BigInt(images) * 4_000n
      await db.insert(jobs).values({
        id: subject.subjectId,
        accountId: account.id,
        state: 'succeeded',
        route: 'generate',
        synchronous: true,
        queue: 'q',
        logPrompt: false,
        notApplied: [],
        images,
        priceMicros: micros,
        turn: 1,
        steps: 1,
      })
      const entry = { accountId: account.id, ...subject, createdAt: dayOf(day) }
      const [none, all] = [0n, micros]
      await db
        .insert(ledgerEntries)
        .values({ ...entry, type: 'hold', amountMicros: -all, heldMicros: all, spentMicros: none })
      if (ends === null) return
      const moved =
        ends === 'capture' ? { amountMicros: none, spentMicros: all } : { amountMicros: all, spentMicros: none }
      await db.insert(ledgerEntries).values({ ...entry, type: ends, heldMicros: -all, ...moved })
    }
    await addJob(1, 1, 1, 'capture')
    await addJob(2, 2, 4, 'capture')
    await addJob(3, 2, 2, 'release')
    await addJob(4, 3, 3, null)
    await addJob(5, 4, 1, 'capture')
    const nothingStored = { storageMicros: 0n, storedBytes: 0 }
    const balance = { heldMicros: 12_000n, balanceMicros: 64_000n, ...nothingStored }
    expect(await usage(db, account)).toEqual({ images: 6, spentMicros: 24_000n, ...balance })
    expect(await usage(db, account, dayOf(2), dayOf(4))).toEqual({ images: 4, spentMicros: 16_000n, ...balance })
    expect(await usage(db, account, dayOf(5))).toEqual({ images: 0, spentMicros: 0n, ...balance })
    expect(await usage(db, await newAccount(false))).toEqual({
      images: 0,
      spentMicros: 0n,
      heldMicros: 0n,
      balanceMicros: 0n,
      ...nothingStored,
    })
  })
})
