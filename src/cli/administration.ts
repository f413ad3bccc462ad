// How a command reaches the accounts: through a running server's socket, or by opening the database itself.
import { existsSync } from 'node:fs'
import path from 'node:path'
import { administer, type Administrator } from '#service/admin/admin-command.ts'
import { findAdministrator } from '#service/admin/admin-socket.ts'
import { dataFolder } from '#service/db/data-folder.ts'
import { openDatabase, type DatabasePlace } from '#service/db/database.ts'
import type { Config } from '../config.ts'
import { AppError } from '../errors.ts'

/** Options that every command about accounts and tokens has, as typed. */
export type AdministrationOptions = { readonly data?: string; readonly json?: boolean }

/**
 * Run `task` with somebody who carries out commands: the server at DATABASE_URL, else the one that has the data folder
 * open, else this process. Throws `bad_argument` where there is no data folder, and what the command throws.
 */
export async function withAdministrator<T>(
  options: AdministrationOptions,
  config: Config,
  task: (administrator: Administrator) => Promise<T>,
): Promise<T> {
  const place = placeOf(options, config)
  if (place.kind === 'pglite') {
    const { database, adminSocket } = dataFolder(place.dataDir)
    const running = await findAdministrator(adminSocket)
    if (running) return task(running)
    if (!existsSync(database))
      throw new AppError(
        'bad_argument',
        `data folder ${place.dataDir}: there is none yet; \`sepia serve\` makes it, and --data or SEPIA_DATA name another`,
      )
  }
  await using database = await openDatabase(place)
  return await task(async (command) => (await administer(database, command)) as never)
}

function placeOf({ data }: AdministrationOptions, config: Config): DatabasePlace {
  if (data === '') throw new AppError('bad_argument', '--data must be a folder, got ""')
  if (config.databaseUrl === null)
    return { kind: 'pglite', dataDir: data === undefined ? config.dataDir : path.resolve(data) }
  if (data !== undefined)
    throw new AppError('bad_argument', '--data names a folder, but DATABASE_URL names a server; only one can be meant')
  return { kind: 'postgres', url: config.databaseUrl }
}
