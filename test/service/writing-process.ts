// A program for database.test.ts: opens the data folder of its first argument, writes one row after another, and prints
// each row's number once it is committed, until it is killed.
import { sql } from 'drizzle-orm'
import { openDatabase } from '../../src/service/db/database.ts'

const [, , dataDir] = process.argv
const { db } = await openDatabase({ kind: 'pglite', dataDir })
await db.execute(sql`create table if not exists written (number integer primary key, filling text)`)
const { rows } = await db.execute<{ last: number }>(sql`select coalesce(max(number), 0)::int as last from written`)
for (let number = rows[0].last + 1; ; number++) {
  await db.transaction(async (tx) => {
    await tx.execute(sql`insert into written values (${number}, repeat('x', 3000))`)
    await tx.execute(sql`update written set filling = filling || 'y' where number = ${number - 1}`)
  })
  process.stdout.write(`${number}\n`)
}
