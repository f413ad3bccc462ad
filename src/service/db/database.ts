// One database in two shapes: PGlite in a folder of this process, or a PostgreSQL server that many processes share.
import { fileURLToPath } from 'node:url'
import type { PgDatabase, PgQueryResultHKT, PgTransaction } from 'drizzle-orm/pg-core'
import type { ExtractTablesWithRelations } from 'drizzle-orm'
import type { ConstructorOptions } from 'pg-boss'
import { openPglite } from './pglite.ts'
import { openPostgres } from './postgres.ts'
import type * as schema from './schema.ts'

type Rows<Row> = { readonly rows: Row[] }

/** Both drivers answer raw SQL with rows; the rest of their answers differs. */
interface RowsHKT extends PgQueryResultHKT {
  readonly type: Rows<this['row']>
}

/** Queries over schema.ts. Inside a transaction use its `Transaction`: PGlite has one connection, which it occupies. */
export type Drizzle = PgDatabase<RowsHKT, typeof schema>
export type Transaction = PgTransaction<RowsHKT, typeof schema, ExtractTablesWithRelations<typeof schema>>

/** Which database: the data folder of one process, or a server by its URL. */
export type DatabasePlace =
  | { readonly kind: 'pglite'; readonly dataDir: string }
  | { readonly kind: 'postgres'; readonly url: string }

/** What a database tells about itself while it runs. */
export type DatabaseHooks = {
  /** A connection was lost that nobody waited for; the next query opens another one. */
  readonly onError?: (error: Error) => void
}

/** An open database; disposal closes it. */
export type Database = AsyncDisposable & {
  readonly kind: DatabasePlace['kind']
  readonly db: Drizzle
  /**
   * Hear NOTIFY on `channel` (lower-case letters and underscores) until the returned function is called. The subscription
   * survives lost connections; `onGap` is called after each, because notifications may have been missed.
   */
  listen(channel: string, onPayload: (payload: string) => void, onGap: () => void): Promise<() => Promise<void>>
  /** Options for a PgBoss on the same database, which is to be stopped before this is disposed. */
  bossOptions(): ConstructorOptions
}

/** SQL written by drizzle-kit. */
export const migrationsFolder = fileURLToPath(new URL('../../../migrations', import.meta.url))

/**
 * Open a database and bring its tables up to date; of several processes that start at once, one does so. Throws
 * `data_in_use`, `database_unavailable`, `bad_argument`.
 */
export function openDatabase(place: DatabasePlace, hooks: DatabaseHooks = {}): Promise<Database> {
  const onError = hooks.onError ?? ((error: Error) => process.emitWarning(error))
  return place.kind === 'pglite'
    ? openPglite(place.dataDir, migrationsFolder)
    : openPostgres(place.url, migrationsFolder, onError)
}
