import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { sql } from 'drizzle-orm'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { openDatabase, type Database } from '../../src/service/db/database.ts'

let folder: string
let database: Database

beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), 'sepia-connection-'))
  database = await openDatabase({ kind: 'pglite', dataDir: folder })
})
afterAll(async () => {
  await database[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true })
})

const divide = async (by: number): Promise<number> => {
  const { rows } = await database.db.execute<{ value: number }>(sql`select 10 / ${by}::int as value`)
  return rows[0].value
}

it('a prepared statement fails and works in turn', async () => {
  for (let turn = 0; turn < 3; turn++) {
    expect(await divide(2)).toBe(5)
    await expect(divide(0)).rejects.toMatchObject({ cause: { message: 'division by zero' } })
  }
})

it('a text that is no SQL is told each time', async () => {
  for (let turn = 0; turn < 3; turn++)
    await expect(database.db.execute(sql`selectt ${1}::int`)).rejects.toMatchObject({
      cause: { message: expect.stringContaining('syntax error') },
    })
  expect(await divide(5)).toBe(2)
})

it('a failed statement rolls its transaction back, and the next begins anew', async () => {
  await database.db.execute(sql`create table numbers (value int primary key)`)
  const add = (...values: number[]): Promise<void> =>
    database.db.transaction(async (tx) => {
      for (const value of values) await tx.execute(sql`insert into numbers values (${value})`)
    })
  await add(1, 2)
  await expect(add(3, 2)).rejects.toMatchObject({ cause: { message: expect.stringContaining('duplicate key') } })
  await add(4)
  const { rows } = await database.db.execute<{ value: number }>(sql`select value from numbers order by value`)
  expect(rows.map(({ value }) => value)).toEqual([1, 2, 4])
})

it('more texts than are kept prepared all work, the first ones again too', async () => {
  const ask = async (number: number): Promise<unknown> => {
    const { rows } = await database.db.execute(sql`select ${1}::int + ${sql.raw(`${number} as "n${number}"`)}`)
    return rows
  }
  for (let number = 0; number < 520; number++) expect(await ask(number)).toEqual([{ [`n${number}`]: number + 1 }])
  expect(await ask(0)).toEqual([{ n0: 1 }])
})

it('many at once get each their own answer', async () => {
  const answers = await Promise.all(Array.from({ length: 100 }, (_, index) => divide(1 + (index % 10))))
  expect(answers).toEqual(Array.from({ length: 100 }, (_, index) => Math.trunc(10 / (1 + (index % 10)))))
})
