// PGlite: PostgreSQL inside this process, its files in the data folder. A killed process loses nothing that was committed,
// for every write has reached the system's page cache by then; PGlite does not sync to the disk, so after a power failure
// the last moments can be missing. Queries go through node-postgres, as to a server.
import { mkdirSync } from 'node:fs'
import { PGlite } from '@electric-sql/pglite'
import { drizzle } from 'drizzle-orm/node-postgres'
import { migrate } from 'drizzle-orm/node-postgres/migrator'
import { escapeIdentifier, Pool } from 'pg'
import type { ConstructorOptions } from 'pg-boss'
import { AppError } from '../../errors.ts'
import { dataFolder, lockDataFolder } from './data-folder.ts'
import type { Database, Drizzle } from './database.ts'
import { PgliteConnection } from './pglite-connection.ts'
import { prepareStatements } from './prepared-statements.ts'
import * as schema from './schema.ts'

/** Open the database of a data folder and keep other processes out of the folder. Throws `data_in_use`, `bad_file`. */
export async function openPglite(dataDir: string, migrationsFolder: string): Promise<Database> {
  await using resources = new AsyncDisposableStack()
  resources.use(lockDataFolder(dataDir))
  const server = await openFiles(dataFolder(dataDir).database)
  resources.defer(() => server.close())
  // One session, whose statements stay prepared as long as it lasts.
  const options = { connection: new PgliteConnection(server), max: 1, idleTimeoutMillis: 0 }
  const pool = new Pool(options)
  pool.on('connect', prepareStatements)
  resources.defer(() => pool.end())
  const db = drizzle(pool, { schema })
  await migrate(db, { migrationsFolder })
  const owned = resources.move()
  return {
    kind: 'pglite',
    db: db as unknown as Drizzle,
    listen: async (channel, onPayload) => {
      const stop = server.onNotification((name, payload) => {
        if (name === channel) onPayload(payload)
      })
      await pool.query(`listen ${escapeIdentifier(channel)}`)
      return async () => stop()
    },
    bossOptions: () => ({ db: bossDatabase(pool), backend: 'pglite' }),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}

async function openFiles(folder: string): Promise<PGlite> {
  // PGlite makes its files readable by everybody, so the folder must not be.
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  try {
    return await PGlite.create({ dataDir: folder })
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error)
    throw new AppError('bad_file', `database ${folder}: cannot be opened (${message.replaceAll(/\s+/g, ' ')})`, {
      cause: error,
    })
  }
}

/** How pg-boss sends SQL: some texts are several statements with a transaction among them, which an error leaves open. */
function bossDatabase(pool: Pool): NonNullable<ConstructorOptions['db']> {
  return {
    async executeSql(text, values) {
      const client = await pool.connect()
      try {
        const result = (await client.query(text, values)) as Rows | readonly Rows[]
        return { rows: [result].flat().flatMap(({ rows }) => rows) }
      } catch (error) {
        await client.query('rollback')
        throw error
      } finally {
        client.release()
      }
    },
  }
}

type Rows = { readonly rows: object[] }
