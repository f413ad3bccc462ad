// Databases for tests: PGlite folders cloned from one that was migrated once, and databases of a real PostgreSQL server.
import { createHash, randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync } from 'node:fs'
import { cp, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { PgBoss } from 'pg-boss'
import { dataFolder } from '../../src/service/db/data-folder.ts'
import { migrationsFolder, openDatabase, type Database, type DatabasePlace } from '../../src/service/db/database.ts'
import { startPostgres, type PostgresServer } from './postgres-server.ts'

const templates = fileURLToPath(new URL('../../node_modules/.cache/sepia-tests/databases', import.meta.url))

/** An empty, migrated database of its own: where it is, for other processes, and the function that removes it. */
export type TestDatabase = AsyncDisposable & { readonly place: DatabasePlace }

/** The two shapes, for describe.each. */
export const databaseKinds = ['pglite', 'postgres'] as const

/** A new database that is not open; disposal removes it. A PGlite folder is a data folder, readable by its owner only. */
export function makeDatabase(kind: DatabasePlace['kind']): Promise<TestDatabase> {
  return kind === 'pglite' ? makePgliteDatabase() : makePostgresDatabase()
}

/** The same, open; disposal closes and removes it. */
export async function openTestDatabase(kind: DatabasePlace['kind']): Promise<Database & TestDatabase> {
  const made = await makeDatabase(kind)
  const database = await openDatabase(made.place)
  return {
    ...database,
    place: made.place,
    [Symbol.asyncDispose]: async () => {
      await database[Symbol.asyncDispose]()
      await made[Symbol.asyncDispose]()
    },
  }
}

/** A new data folder with a migrated database in it, cloned in a tenth of the time that making one takes. */
export async function makeDataFolder(): Promise<string> {
  const template = await pgliteTemplate()
  const dataDir = await mkdtemp(path.join(tmpdir(), 'sepia-data-'))
  await cp(template, dataFolder(dataDir).database, { recursive: true })
  return dataDir
}

async function makePgliteDatabase(): Promise<TestDatabase> {
  const dataDir = await makeDataFolder()
  return {
    place: { kind: 'pglite', dataDir },
    [Symbol.asyncDispose]: () => rm(dataDir, { recursive: true, force: true }),
  }
}

/** The database folder that others are cloned from; kept as long as migrations and libraries stay what they are. */
async function pgliteTemplate(): Promise<string> {
  const template = path.join(templates, templateKey())
  if (existsSync(template)) return template
  mkdirSync(templates, { recursive: true })
  const made = await mkdtemp(path.join(templates, 'new-'))
  {
    await using database = await openDatabase({ kind: 'pglite', dataDir: made })
    const boss = new PgBoss(database.bossOptions())
    await boss.start()
    await boss.stop()
  }
  try {
    renameSync(dataFolder(made).database, template)
  } catch (error) {
    // Another test file was faster.
    if (!existsSync(template)) throw error
  }
  await rm(made, { recursive: true })
  return template
}

function templateKey(): string {
  const hash = createHash('sha256')
  const files = readdirSync(migrationsFolder, { recursive: true, encoding: 'utf8', withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.join(entry.parentPath, entry.name))
  for (const name of ['@electric-sql/pglite', 'pg-boss'])
    files.push(fileURLToPath(new URL(`../../node_modules/${name}/package.json`, import.meta.url)))
  for (const file of files.sort()) hash.update(readFileSync(file))
  return hash.digest('hex').slice(0, 16)
}

let server: Promise<PostgresServer> | null = null

/** The PostgreSQL server of this test file; it ends with the process. */
export function postgresServer(): Promise<PostgresServer> {
  server ??= startPostgres()
  return server
}

async function makePostgresDatabase(): Promise<TestDatabase> {
  const { createDatabase, dropDatabase } = await postgresServer()
  const name = `test_${randomBytes(6).toString('hex')}`
  return {
    place: { kind: 'postgres', url: await createDatabase(name) },
    [Symbol.asyncDispose]: () => dropDatabase(name),
  }
}
