import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { balanceOf } from '../../src/service/billing/ledger.ts'
import { databaseKinds, makeDatabase, type TestDatabase } from '../support/test-database.ts'
import { asynchronous, newAccount, openOffice, orderFor } from '../support/job-office.ts'
import { temporaryFolder } from '../support/temporary-folder.ts'

describe.each(databaseKinds)('jobs on %s', (kind) => {
  let made: TestDatabase
  beforeAll(async () => {
    made = await makeDatabase(kind)
  })
  afterAll(() => made[Symbol.asyncDispose]())

  it('run to their pictures and are charged once', async () => {
    await using office = await openOffice(made.place, await temporaryFolder('files'))
    const account = await newAccount(office.database)
    await using _runner = await office.run()
    const job = await office.jobs.submit(account, orderFor('pictures', { seeds: [7, 8] }), asynchronous)
    const ended = await office.jobs.ended(job.id)
    expect(ended).toMatchObject({ state: 'succeeded', attempt: 1, step: 4, steps: 4, queuePosition: null })
    expect(ended.result?.images.map(({ seed }) => seed)).toEqual([7, 8])
    expect((await office.jobs.images(ended)).map((bytes) => [...bytes])).toEqual([
      [1, 1, 1],
      [2, 2, 2],
    ])
    expect(await balanceOf(office.database.db, account.id)).toEqual({
      balanceMicros: -job.priceMicros,
      heldMicros: 0n,
      spentMicros: job.priceMicros,
    })
  })
})
