import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, statSync } from 'node:fs'
import { cp, mkdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { sql } from 'drizzle-orm'
import { PgBoss } from 'pg-boss'
import { afterAll, describe, expect, it, onTestFinished, vi } from 'vitest'
import { migrationsFolder, openDatabase, type Database } from '../../src/service/db/database.ts'
import { accounts } from '../../src/service/db/schema.ts'
import { startPostgres } from '../support/postgres-server.ts'
import { temporaryFolder } from '../support/temporary-folder.ts'
import { databaseKinds, makeDatabase, openTestDatabase, postgresServer } from '../support/test-database.ts'

const notify = (database: Database, channel: string, payload: string) =>
  database.db.execute(sql`select pg_notify(${channel}, ${payload})`)

/** A function to be called, and the promise of its first call. */
function awaited<T>(): { readonly call: (value: T) => void; readonly called: Promise<T> } {
  const { promise, resolve } = Promise.withResolvers<T>()
  return { call: resolve, called: promise }
}

describe.each(databaseKinds)('a database (%s)', (kind) => {
  it('keeps what is committed and nothing of what is rolled back', async () => {
    await using made = await makeDatabase(kind)
    {
      await using database = await openDatabase(made.place)
      await database.db.insert(accounts).values({ id: 'acct_1', name: 'kept' })
      await expect(
        database.db.transaction(async (tx) => {
          await tx.insert(accounts).values({ id: 'acct_2', name: 'lost' })
          throw new Error('changed its mind')
        }),
      ).rejects.toThrow('changed its mind')
    }
    await using database = await openDatabase(made.place)
    expect(await database.db.select().from(accounts)).toMatchObject([{ id: 'acct_1', name: 'kept' }])
  })

  it('brings notifications to every listener of a channel, and to none once it has stopped', async () => {
    await using database = await openTestDatabase(kind)
    const heard: string[] = []
    const first = awaited<string>()
    const stop = await database.listen(
      'some_channel',
      (payload) => heard.push(payload),
      () => {},
    )
    await database.listen('some_channel', first.call, () => {})
    await database.listen(
      'other_channel',
      (payload) => heard.push(`other ${payload}`),
      () => {},
    )
    await database.db.transaction(async (tx) => {
      await tx.execute(sql`select pg_notify('some_channel', 'in a transaction')`)
      expect(heard).toEqual([])
    })
    expect(await first.called).toBe('in a transaction')
    expect(heard).toEqual(['in a transaction'])
    await stop()
    const last = awaited<string>()
    await database.listen('last_channel', last.call, () => {})
    await notify(database, 'some_channel', 'nobody hears this')
    await notify(database, 'last_channel', 'done')
    expect(await last.called).toBe('done')
    expect(heard).toEqual(['in a transaction'])
  })

  it('carries pg-boss, its messages in our transactions', async () => {
    await using database = await openTestDatabase(kind)
    const boss = new PgBoss(database.bossOptions())
    boss.on('error', (error) => console.error(error))
    await boss.start()
    await boss.createQueue('work')
    const { fromDrizzle } = await import('pg-boss')
    const id = await database.db.transaction((tx) => boss.send('work', { n: 1 }, { db: fromDrizzle(tx, sql) }))
    await database.db
      .transaction(async (tx) => {
        await boss.send('work', { n: 2 }, { db: fromDrizzle(tx, sql) })
        tx.rollback()
      })
      .catch(() => {})
    expect(await boss.fetch('work', { batchSize: 5 })).toMatchObject([{ id, data: { n: 1 } }])
    await boss.stop({ graceful: false })
  })

  it('has the tables that the schema tells, whatever it was opened with before', async () => {
    await using made = await makeDatabase(kind)
    for (let time = 0; time < 2; time++) {
      await using database = await openDatabase(made.place)
      const { rows } = await database.db.execute<{ count: number }>(
        sql`select count(*)::int as count from drizzle.__drizzle_migrations`,
      )
      expect(rows).toEqual([{ count: journal().length }])
    }
  })
})

function journal(): readonly { readonly tag: string }[] {
  const text = readFileSync(path.join(migrationsFolder, 'meta', '_journal.json'), 'utf8')
  return (JSON.parse(text) as { entries: { tag: string }[] }).entries
}

it('the migrations are what drizzle-kit writes for the schema', async () => {
  const root = path.resolve(import.meta.dirname, '../..')
  const copy = await temporaryFolder('migrations')
  await cp(migrationsFolder, copy, { recursive: true })
  const options = ['--dialect=postgresql', '--schema=src/service/db/schema.ts', `--out=${path.relative(root, copy)}`]
  const child = spawn(process.execPath, [path.join(root, 'node_modules/drizzle-kit/bin.cjs'), 'generate', ...options], {
    cwd: root,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let output = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => void (output += text))
  const [code] = (await once(child, 'close')) as [number]
  expect({ code, output }).toEqual({ code: 0, output: expect.stringContaining('No schema changes') })
})

describe('a data folder', () => {
  it('is its owner’s, with all that is in it', async () => {
    const dataDir = path.join(await temporaryFolder('data'), 'new', 'data')
    await using _ = await openDatabase({ kind: 'pglite', dataDir })
    for (const place of ['', 'database']) expect(statSync(path.join(dataDir, place)).mode & 0o777).toBe(0o700)
    for (const place of ['owner.lock', 'owner.pid'])
      expect(statSync(path.join(dataDir, place)).mode & 0o777).toBe(0o600)
  })

  it('is one process’s at a time', async () => {
    await using made = await makeDatabase('pglite')
    const dataDir = made.place.kind === 'pglite' ? made.place.dataDir : ''
    {
      await using _ = await openDatabase(made.place)
      await expect(openDatabase(made.place)).rejects.toMatchObject({
        code: 'data_in_use',
        message: `data folder ${dataDir}: in use by process ${process.pid}`,
      })
    }
    await using _ = await openDatabase(made.place)
  })

  it('loses nothing that was committed when its process is killed, and is free at once', async () => {
    await using made = await makeDatabase('pglite')
    const dataDir = made.place.kind === 'pglite' ? made.place.dataDir : ''
    let committed = 0
    for (let round = 0; round < 3; round++) {
      const child = spawn(process.execPath, [path.join(import.meta.dirname, 'writing-process.ts'), dataDir], {
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      onTestFinished(() => void child.kill('SIGKILL'))
      const goal = committed + 30 + 13 * round
      const refusals: unknown[] = []
      for await (const line of createInterface(child.stdout)) {
        committed = Number(line)
        if (committed !== goal) continue
        refusals.push(await openDatabase(made.place).catch((error: unknown) => error))
        child.kill('SIGKILL')
      }
      expect(refusals).toMatchObject([
        { code: 'data_in_use', message: `data folder ${dataDir}: in use by process ${child.pid}` },
      ])
      expect(child.signalCode ?? (await once(child, 'exit'))[1]).toBe('SIGKILL')
      await using database = await openDatabase(made.place)
      const { rows } = await database.db.execute<Record<'count' | 'last' | 'damaged', number>>(
        sql`select count(*)::int as count, max(number)::int as last,
          count(*) filter (where length(filling) <> 3001 and number < (select max(number) from written))::int as damaged
          from written`,
      )
      // One may have been committed that the process could not tell any more.
      expect(rows).toEqual([{ count: rows[0].last, last: rows[0].last, damaged: 0 }])
      expect([committed, committed + 1]).toContain(rows[0].last)
      committed = rows[0].last
    }
    expect(committed).toBeGreaterThan(120)
  })

  it('says when it cannot be made, and when the database in it is damaged', async () => {
    const folder = await temporaryFolder('data')
    await writeFile(path.join(folder, 'file'), '')
    await expect(openDatabase({ kind: 'pglite', dataDir: path.join(folder, 'file', 'data') })).rejects.toMatchObject({
      code: 'bad_argument',
      message: expect.stringMatching(/^data folder .*: cannot be made \(ENOTDIR\)$/),
    })
    const dataDir = path.join(folder, 'damaged')
    await mkdir(path.join(dataDir, 'database'), { recursive: true })
    await writeFile(path.join(dataDir, 'database', 'PG_VERSION'), '9\n')
    await expect(openDatabase({ kind: 'pglite', dataDir })).rejects.toMatchObject({
      code: 'bad_file',
      message: expect.stringMatching(/^database .*: cannot be opened \(/),
    })
    // The refused ones have let go of it.
    await expect(openDatabase({ kind: 'pglite', dataDir })).rejects.toMatchObject({ code: 'bad_file' })
  })
})

describe('a PostgreSQL server', () => {
  afterAll(async () => (await postgresServer())[Symbol.asyncDispose]())

  it('is migrated once by many that start at the same moment', async () => {
    await using made = await makeDatabase('postgres')
    const opened = await Promise.all(Array.from({ length: 5 }, () => openDatabase(made.place)))
    const { rows } = await opened[0].db.execute(sql`select count(*)::int as count from drizzle.__drizzle_migrations`)
    expect(rows).toEqual([{ count: journal().length }])
    await Promise.all(opened.map((database) => database[Symbol.asyncDispose]()))
  })

  it('brings one process’s notifications to another', async () => {
    await using made = await makeDatabase('postgres')
    await using hearing = await openDatabase(made.place)
    await using telling = await openDatabase(made.place)
    const payload = awaited<string>()
    await hearing.listen('between', payload.call, () => {})
    await notify(telling, 'between', 'hello')
    expect(await payload.called).toBe('hello')
  })

  it('may go and come back: listeners are told of the gap and hear again, queries work again', async () => {
    await using server = await startPostgres()
    const url = await server.createDatabase('here')
    const errors: Error[] = []
    await using database = await openDatabase({ kind: 'postgres', url }, { onError: (error) => errors.push(error) })
    const gap = awaited<void>()
    const payload = awaited<string>()
    await database.listen('channel', payload.call, () => gap.call())
    await server.kill()
    await expect(database.db.execute(sql`select 1`)).rejects.toThrow(/./)
    await server.restart()
    await gap.called
    await notify(database, 'channel', 'again')
    expect(await payload.called).toBe('again')
    expect(errors.length).toBeGreaterThan(0)
  })

  it('that ends a connection inside a transaction fails the transaction, and nothing else', async () => {
    await using made = await makeDatabase('postgres')
    const errors: Error[] = []
    await using database = await openDatabase(made.place, { onError: (error) => errors.push(error) })
    const uncaught = vi.fn<(error: unknown) => void>()
    process.on('uncaughtException', uncaught)
    onTestFinished(() => void process.off('uncaughtException', uncaught))
    // While a statement runs, and between two of them, when nobody waits for an answer.
    for (const pauseMs of [0, 200]) {
      const transaction = database.db.transaction(async (tx) => {
        await tx.insert(accounts).values({ id: 'acct_1', name: 'lost' })
        const { rows } = await tx.execute<{ pid: number }>(sql`select pg_backend_pid() as pid`)
        const end = async (): Promise<unknown> =>
          await database.db.execute(sql`select pg_terminate_backend(${rows[0].pid}, 5000)`)
        if (pauseMs === 0) return await Promise.all([end(), tx.execute(sql`select pg_sleep(10)`)])
        await end()
        await sleep(pauseMs)
        return await tx.execute(sql`select 1`)
      })
      await expect(transaction).rejects.toThrow(/./)
      expect(await database.db.select().from(accounts)).toEqual([])
    }
    expect(uncaught).not.toHaveBeenCalled()
    expect(errors).toEqual([])
  })

  it('that is not there, or not what the URL says, is one clear line without the password', async () => {
    const { createDatabase } = await postgresServer()
    const url = new URL(await createDatabase('known'))
    url.password = 'geheim'
    const refused = async (change: (url: URL) => void): Promise<{ code: string; message: string }> => {
      const other = new URL(url)
      change(other)
      const error = await openDatabase({ kind: 'postgres', url: other.href }).catch((error: unknown) => error)
      return error as { code: string; message: string }
    }
    for (const [change, message] of [
      [(url: URL) => void (url.port = '9'), /^database known at 127\.0\.0\.1:9: connect ECONNREFUSED/],
      [
        (url: URL) => void (url.pathname = '/absent'),
        /^database absent at 127\.0\.0\.1:\d+: database "absent" does not/,
      ],
      [(url: URL) => void (url.username = 'nobody'), /: role "nobody" does not exist$/],
    ] as const) {
      const error = await refused(change)
      expect(error).toMatchObject({ code: 'database_unavailable', message: expect.stringMatching(message) })
      expect(error.message).not.toContain('geheim')
    }
    for (const bad of ['', 'localhost', 'mysql://geheim@localhost/x'])
      await expect(openDatabase({ kind: 'postgres', url: bad })).rejects.toMatchObject({
        code: 'bad_argument',
        message: expect.not.stringContaining('geheim'),
      })
  })
})
