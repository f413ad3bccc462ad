// A PostgreSQL server: a pool for queries, one connection for notifications, a lock round migrations.
import { drizzle } from 'drizzle-orm/node-postgres'
import { migrate } from 'drizzle-orm/node-postgres/migrator'
import { Client, Pool, type ClientConfig } from 'pg'
import { AppError } from '../../errors.ts'
import type { Database, Drizzle } from './database.ts'
import { PostgresListener } from './postgres-listener.ts'
import * as schema from './schema.ts'

/** Any number of this database that nobody else takes for an advisory lock. */
const migrationLock = 0x53455049

/** Connect to a server. Throws `database_unavailable`, `bad_argument`. */
export async function openPostgres(
  url: string,
  migrationsFolder: string,
  onError: (error: Error) => void,
): Promise<Database> {
  const options: ClientConfig = {
    connectionString: checkedUrl(url),
    application_name: 'sepia',
    connectionTimeoutMillis: 10_000,
    keepAlive: true,
    keepAliveInitialDelayMillis: 10_000,
    // A machine that vanishes inside a transaction must not hold an account's row for longer than this.
    idle_in_transaction_session_timeout: 30_000,
  }
  await migrateOnce(options, migrationsFolder)
  const pool = new Pool({ ...options, max: 10 })
  let closing = false
  // A connection that breaks while it lies idle; the pool replaces it. At the end it does not matter how one ends.
  pool.on('error', (error) => {
    if (!closing) onError(error)
  })
  // A connection that breaks inside a transaction, where the pool does not hear it: its next statement fails of it.
  pool.on('connect', (client) => void client.on('error', () => {}))
  const listener = new PostgresListener(options, onError)
  return {
    kind: 'postgres',
    db: drizzle(pool, { schema }) as unknown as Drizzle,
    listen: (channel, onPayload, onGap) => listener.listen(channel, onPayload, onGap),
    bossOptions: () => ({ connectionString: url, application_name: 'sepia', max: 5, backend: 'postgres' }),
    [Symbol.asyncDispose]: async () => {
      closing = true
      await listener[Symbol.asyncDispose]()
      await pool.end()
    },
  }
}

function checkedUrl(url: string): string {
  const protocol = URL.canParse(url) ? new URL(url).protocol : null
  if (protocol === 'postgres:' || protocol === 'postgresql:') return url
  // The value may hold a password, so it is not repeated.
  throw new AppError('bad_argument', 'DATABASE_URL must be a URL such as postgres://user:password@host:5432/database')
}

/** Bring the tables up to date, one process at a time. */
async function migrateOnce(options: ClientConfig, migrationsFolder: string): Promise<void> {
  const client = new Client(options)
  // A broken connection also fails the query that waits for it.
  client.on('error', () => {})
  try {
    await client.connect()
  } catch (error) {
    throw unavailable(client, error)
  }
  try {
    await client.query('select pg_advisory_lock($1)', [migrationLock])
    await migrate(drizzle(client, { schema }), { migrationsFolder })
  } finally {
    // Ends the lock too.
    await client.end()
  }
}

function unavailable({ host, port, database }: Client, error: unknown): AppError {
  const reason = error instanceof AggregateError ? error.errors.map(messageOf).join(', ') : messageOf(error)
  return new AppError('database_unavailable', `database ${database ?? ''} at ${host}:${port}: ${reason}`, {
    cause: error,
  })
}

function messageOf(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).replaceAll(/\s+/g, ' ')
}
