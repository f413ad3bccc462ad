// PGlite: PostgreSQL inside this process, its files in the data folder. A killed process loses nothing that was committed,
// for every write has reached the system's page cache by then; PGlite does not sync to the disk, so after a power failure
// the last moments can be missing.
import { mkdirSync } from 'node:fs'
import { PGlite } from '@electric-sql/pglite'
import { drizzle } from 'drizzle-orm/pglite'
import { migrate } from 'drizzle-orm/pglite/migrator'
import { fromPglite } from 'pg-boss'
import { AppError } from '../../errors.ts'
import { dataFolder, lockDataFolder } from './data-folder.ts'
import type { Database, Drizzle } from './database.ts'
import * as schema from './schema.ts'

/** Open the database of a data folder and keep other processes out of the folder. Throws `data_in_use`, `bad_file`. */
export async function openPglite(dataDir: string, migrationsFolder: string): Promise<Database> {
  using resources = new DisposableStack()
  resources.use(lockDataFolder(dataDir))
  const client = await openFiles(dataFolder(dataDir).database)
  try {
    const db = drizzle(client, { schema })
    await migrate(db, { migrationsFolder })
    const lock = resources.move()
    return {
      kind: 'pglite',
      db: db as unknown as Drizzle,
      listen: async (channel, onPayload) => {
        const stop = await client.listen(channel, onPayload)
        return () => stop()
      },
      bossOptions: () => ({ db: fromPglite(client), backend: 'pglite' }),
      [Symbol.asyncDispose]: async () => {
        using _lock = lock
        await client.close()
      },
    }
  } catch (error) {
    await client.close()
    throw error
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
