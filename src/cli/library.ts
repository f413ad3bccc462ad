// How a command reaches the library: through a running server's socket, or by opening database, files and models itself.
import { libraryOf, openOffice } from '../app.ts'
import type { Config } from '../config.ts'
import { AppError } from '../errors.ts'
import { administer, type Administrator } from '#service/admin/admin-command.ts'
import { findAdministrator } from '#service/admin/admin-socket.ts'
import { firstAccount } from '#service/admin/first-account.ts'
import { inspectionQueue } from '#service/assets/complete-upload.ts'
import { dataFolder } from '#service/db/data-folder.ts'
import { resolveOffice, type OfficeOptions } from './service-options.ts'
import type { Terminal } from './terminal.ts'

/** Options that every command about assets has, as typed. */
export type LibraryPlace = Pick<OfficeOptions, 'data' | 'model' | 'cache'> & { readonly json?: boolean }

/**
 * Run `task` with somebody who carries out commands about assets. A data folder that is not there yet is made, with the
 * account "default". Throws `bad_argument`, `data_in_use`, and what the command throws.
 */
export async function withLibrary<T>(
  options: LibraryPlace,
  config: Config,
  terminal: Terminal,
  task: (administrator: Administrator) => Promise<T>,
): Promise<T> {
  if (options.data !== undefined && config.databaseUrl !== null)
    throw new AppError('bad_argument', '--data names a folder, but DATABASE_URL names a server; only one can be meant')
  const { data, model, cache } = options
  const office = resolveOffice({ data, model, cache, logLevel: 'error' }, config)
  if (config.databaseUrl === null) {
    const running = await findAdministrator(dataFolder(office.dataDir).adminSocket)
    if (running) return task(running)
  }
  await using resources = new AsyncDisposableStack()
  const { engineEntry, signal } = terminal
  const opened = await openOffice(office, { engineEntry, signal }, resources)
  // Whoever deletes an asset takes its message from the queue, which has to be there.
  await opened.messages.create(inspectionQueue(opened.deployment))
  const { db } = opened.database
  const first = await firstAccount(db, config.firstToken)
  if (first) terminal.stderr.write(`The account "default" was made. Its token is shown this once: ${first.token}\n`)
  const library = libraryOf(opened, office, engineEntry)
  return await task(async (command) => (await administer({ db, library }, command)) as never)
}
