import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  createAccount,
  findAccount,
  listAccounts,
  setLimits,
  type Account,
} from '../../src/service/accounts/account.ts'
import { takeRequest } from '../../src/service/accounts/rate-limit.ts'
import { openKnownTokens, type KnownTokens } from '../../src/service/accounts/known-tokens.ts'
import { authenticate, createToken, listTokens, revokeToken } from '../../src/service/accounts/token.ts'
import type { Database } from '../../src/service/db/database.ts'
import { databaseKinds, openTestDatabase } from '../support/test-database.ts'

describe.each(databaseKinds)('%s', (kind) => {
  let database: Database
  beforeAll(async () => {
    database = await openTestDatabase(kind)
  })
  afterAll(() => database[Symbol.asyncDispose]())

  describe('accounts', () => {
    it('are made without limits, found by id and by name, and listed', async () => {
      const { db } = database
      const made = await createAccount(db, { name: 'ann' })
      expect(made).toEqual({
        id: expect.stringMatching(/^acct_[0-9a-hjkmnp-tv-z]{26}$/),
        name: 'ann',
        createdAt: expect.any(Date),
        requestsPerMinute: null,
        maxRunningJobs: null,
        maxQueuedJobs: null,
        prepaid: false,
      })
      expect(await findAccount(db, made.id)).toEqual(made)
      expect(await findAccount(db, 'ann')).toEqual(made)
      expect(await findAccount(db, 'nobody')).toBeNull()
      expect(await listAccounts(db)).toContainEqual(made)
    })

    it('have names of their own', async () => {
      const { db } = database
      await createAccount(db, { name: 'bob' })
      await expect(createAccount(db, { name: 'bob' })).rejects.toMatchObject({
        code: 'bad_argument',
        message: 'name: there is an account "bob" already',
      })
      for (const name of ['', 'two words', 'acct_1', 'x'.repeat(65), "'; drop table accounts; --"])
        await expect(createAccount(db, { name })).rejects.toMatchObject({ code: 'bad_argument' })
    })

    it('get the limits that are given and keep the others', async () => {
      const { db } = database
      const { id } = await createAccount(db, { name: 'cecil', maxQueuedJobs: 7, prepaid: true })
      expect(await setLimits(db, id, { requestsPerMinute: 60 })).toMatchObject({
        requestsPerMinute: 60,
        maxRunningJobs: null,
        maxQueuedJobs: 7,
        prepaid: true,
      })
      expect(await setLimits(db, id, { maxQueuedJobs: null, prepaid: false })).toMatchObject({
        requestsPerMinute: 60,
        maxQueuedJobs: null,
        prepaid: false,
      })
      for (const limits of [{ maxRunningJobs: -1 }, { maxRunningJobs: 1.5 }, { requestsPerMinute: 2 ** 31 }, {}])
        await expect(setLimits(db, id, limits)).rejects.toMatchObject({ code: 'bad_argument' })
      await expect(setLimits(db, 'acct_none', { prepaid: true })).rejects.toMatchObject({ code: 'not_found' })
    })
  })

  describe('tokens', () => {
    let account: Account
    beforeAll(async () => {
      account = await createAccount(database.db, { name: 'dora' })
    })

    it('are 256 random bits that stand for an account until they are revoked', async () => {
      const { db } = database
      const { id, token, prefix } = await createToken(db, account.id, 'laptop')
      expect(token).toMatch(/^sepia_[A-Za-z0-9_-]{43}$/)
      expect(token.startsWith(prefix)).toBe(true)
      expect(prefix).toHaveLength(12)
      expect(await authenticate(db, token)).toEqual(account)
      expect(await authenticate(db, `${token}x`)).toBeNull()
      expect(await authenticate(db, prefix)).toBeNull()
      const revoked = await revokeToken(db, prefix)
      expect(revoked).toMatchObject({ id, name: 'laptop', revokedAt: expect.any(Date) })
      expect(await authenticate(db, token)).toBeNull()
      expect(await revokeToken(db, id)).toEqual(revoked)
    })

    it('are kept as a hash, and a list shows neither token nor hash', async () => {
      const { db } = database
      const { id, token } = await createToken(db, account.id, 'server')
      const rows = (await db.execute('select * from tokens')).rows
      const stored = JSON.stringify(rows, (_, value: unknown) =>
        value instanceof Uint8Array ? Buffer.from(value).toString('latin1') : value,
      )
      expect(stored).toContain(id)
      expect(stored).not.toContain(token.slice(12))
      const listed = await listTokens(db, account.id)
      expect(Object.keys(listed[0]).sort()).toEqual(['accountId', 'createdAt', 'id', 'name', 'prefix', 'revokedAt'])
      expect(listed.map((row) => row.id)).toContain(id)
      expect(await listTokens(db, 'acct_other')).toEqual([])
    })

    it('can be given, where they can stand in a header', async () => {
      const { db } = database
      const given = 'a-token-of-the-operator=='
      const { prefix } = await createToken(db, account.id, 'given', given)
      expect(prefix).toBe(given.slice(0, 6))
      expect(await authenticate(db, given)).toEqual(account)
      await expect(createToken(db, account.id, 'again', given)).rejects.toMatchObject({ code: 'bad_argument' })
      for (const bad of ['', 'short', 'with spaces in between', 'x'.repeat(257), 'ümläute-ümläute-ümläute'])
        await expect(createToken(db, account.id, 'bad', bad)).rejects.toSatisfy(
          (error: Error) => bad === '' || !error.message.includes(bad),
        )
    })

    it('are revoked by one prefix only, and wildcards are none', async () => {
      const { db } = database
      await createToken(db, account.id, 'one')
      await createToken(db, account.id, 'two')
      await expect(revokeToken(db, 'sepia_')).rejects.toMatchObject({
        code: 'bad_argument',
        message: expect.stringMatching(/^token: "sepia_" fits \d tokens; name one by its id: tok_/),
      })
      for (const wrong of ['%', 'sepia%', 'sepia\\_', 'none'])
        await expect(revokeToken(db, wrong)).rejects.toMatchObject({ code: 'not_found' })
    })
  })

  describe('requests a minute', () => {
    const minute = Date.parse('2024-05-01T10:00:00Z')

    it('are counted up to the limit, and again in the next minute', async () => {
      const { db } = database
      const account = await createAccount(db, { name: 'emil', requestsPerMinute: 3 })
      for (const second of [0, 20, 59]) await takeRequest(db, account, new Date(minute + second * 1000))
      await expect(takeRequest(db, account, new Date(minute + 59_001))).rejects.toMatchObject({
        code: 'rate_limited',
        message: 'requests: the account "emil" may send 3 a minute',
        retryAfterSeconds: 1,
      })
      await expect(takeRequest(db, account, new Date(minute))).rejects.toMatchObject({ retryAfterSeconds: 60 })
      await takeRequest(db, account, new Date(minute + 60_000))
      const { rows } = await db.execute(
        `select count(*)::int as n from request_counts where account_id = '${account.id}'`,
      )
      expect(rows).toEqual([{ n: 1 }])
    })

    it('let exactly as many through as the limit says, however many come at once', async () => {
      const { db } = database
      const account = await createAccount(db, { name: 'fritz', requestsPerMinute: 10 })
      const taken = await Promise.allSettled(
        Array.from({ length: 40 }, () => takeRequest(db, account, new Date(minute))),
      )
      expect(taken.filter(({ status }) => status === 'fulfilled')).toHaveLength(10)
    })

    it('are none at 0, and without bound at null', async () => {
      const { db } = database
      const none = await createAccount(db, { name: 'gerd', requestsPerMinute: 0 })
      await expect(takeRequest(db, none, new Date(minute))).rejects.toMatchObject({ code: 'rate_limited' })
      const all = await createAccount(db, { name: 'hans' })
      for (let count = 0; count < 100; count++) await takeRequest(db, all, new Date(minute))
    })
  })
  describe('tokens that were seen', () => {
    let account: Account
    let known: KnownTokens
    beforeAll(async () => {
      account = await createAccount(database.db, { name: 'known' })
      known = await openKnownTokens(database)
    })
    afterAll(() => known[Symbol.asyncDispose]())

    it('stand for their account until they are revoked', async () => {
      const { db } = database
      const { id, token } = await createToken(db, account.id, 'seen')
      expect(await known.authenticate(token)).toEqual(account)
      expect(await known.authenticate(token)).toEqual(account)
      expect(await known.authenticate(`${token}x`)).toBeNull()
      await revokeToken(db, id)
      expect(await known.authenticate(token)).toBeNull()
    })

    it('are known as soon as they are made', async () => {
      const token = 'a-token-that-is-made-later'
      expect(await known.authenticate(token)).toBeNull()
      await createToken(database.db, account.id, 'later', token)
      expect(await known.authenticate(token)).toEqual(account)
    })

    it('show the limits of the account as they are', async () => {
      const { db } = database
      const { token } = await createToken(db, account.id, 'limits')
      for (const maxQueuedJobs of [3, 4]) {
        await setLimits(db, account.id, { maxQueuedJobs })
        expect(await known.authenticate(token)).toMatchObject({ maxQueuedJobs })
      }
      await setLimits(db, account.id, { maxQueuedJobs: null })
    })

    it('are not remembered from a look that a revocation overtook', async () => {
      const { db } = database
      for (let turn = 0; turn < 20; turn++) {
        const { id, token } = await createToken(db, account.id, 'overtaken')
        await Promise.all([known.authenticate(token), known.authenticate(token), revokeToken(db, id)])
        expect(await known.authenticate(token)).toBeNull()
      }
    })
  })
})
