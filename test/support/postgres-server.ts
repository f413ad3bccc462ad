// A PostgreSQL server of our own for a test: Debian's programs, a temporary folder, a port that is free.
import { execFile, execFileSync, spawn } from 'node:child_process'
import { chownSync, existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { Client } from 'pg'

/** A running server. */
export type PostgresServer = AsyncDisposable & {
  /** Makes an empty database; its URL. */
  readonly createDatabase: (name: string) => Promise<string>
  readonly dropDatabase: (name: string) => Promise<void>
  /** SIGKILL to the whole server, as when its machine dies. */
  readonly kill: () => Promise<void>
  /** Start it again on the same port and files. */
  readonly restart: () => Promise<void>
}

const run = promisify(execFile)

// vitest ends its processes by a signal, which by itself runs no exit handlers: servers would be left behind.
for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => process.exit(1))

/** Start a server; it is ended and removed on disposal, or when this process ends. */
export async function startPostgres(): Promise<PostgresServer> {
  const programs = findPrograms()
  const owner = serverOwner()
  const folder = mkdtempSync(path.join(tmpdir(), 'sepia-postgres-'))
  if (owner) chownSync(folder, owner.uid, owner.gid)
  const data = path.join(folder, 'data')
  const identity = owner ? { uid: owner.uid, gid: owner.gid } : {}
  await run(
    path.join(programs, 'initdb'),
    ['-D', data, '-U', 'sepia', '--auth=trust', '--no-sync', '-E', 'UTF8', '--locale=C'],
    { cwd: folder, ...identity },
  )
  const port = await freePort()
  const start = async (): Promise<{ kill(signal: NodeJS.Signals): Promise<void> }> => {
    const settings = { port, listen_addresses: '127.0.0.1', unix_socket_directories: folder, fsync: 'off' }
    const child = spawn(
      path.join(programs, 'postgres'),
      ['-D', data, ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])],
      { cwd: folder, ...identity, stdio: ['ignore', 'ignore', 'pipe'], detached: true },
    )
    const ended = new Promise<void>((resolve) => void child.once('exit', () => resolve()))
    let output = ''
    await new Promise<void>((resolve, reject) => {
      child.stderr.setEncoding('utf8').on('data', (text: string) => {
        output += text
        if (output.includes('ready to accept connections')) resolve()
      })
      child.once('error', reject)
      child.once('exit', (code) => reject(new Error(`postgres ended with ${code}: ${output}`)))
    })
    // From here on its words are read and dropped, so that it never waits for a full pipe.
    child.stderr.removeAllListeners('data').resume()
    child.unref()
    ;(child.stderr as Socket).unref()
    const kill = async (signal: NodeJS.Signals): Promise<void> => {
      if (child.exitCode === null && child.signalCode === null && child.pid !== undefined) {
        // SIGKILL leaves the server's children behind unless the whole group gets it.
        process.kill(signal === 'SIGKILL' ? -child.pid : child.pid, signal)
        child.ref()
        await ended
      }
    }
    const endAll = (): void => {
      if (child.exitCode === null && child.signalCode === null && child.pid !== undefined)
        process.kill(-child.pid, 'SIGKILL')
      rmSync(folder, { recursive: true, force: true })
    }
    process.once('exit', endAll)
    void ended.finally(() => process.removeListener('exit', endAll))
    return { kill }
  }
  let running = await start()

  const urlOf = (name: string): string => `postgres://sepia@127.0.0.1:${port}/${name}`
  const administer = async (statement: string): Promise<void> => {
    const client = new Client({ connectionString: urlOf('postgres') })
    await client.connect()
    try {
      await client.query(statement)
    } finally {
      await client.end()
    }
  }
  return {
    createDatabase: async (name) => {
      await administer(`create database "${name}"`)
      return urlOf(name)
    },
    dropDatabase: (name) => administer(`drop database "${name}" with (force)`),
    kill: () => running.kill('SIGKILL'),
    restart: async () => {
      await running.kill('SIGKILL')
      running = await start()
    },
    [Symbol.asyncDispose]: async () => {
      await running.kill('SIGINT')
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

/** The folder of the newest version's programs. */
function findPrograms(): string {
  const versions = '/usr/lib/postgresql'
  const newest = existsSync(versions) ? readdirSync(versions).sort((a, b) => Number(b) - Number(a)) : []
  for (const version of newest) {
    const programs = path.join(versions, version, 'bin')
    if (existsSync(path.join(programs, 'initdb')) && existsSync(path.join(programs, 'postgres'))) return programs
  }
  try {
    return execFileSync('pg_config', ['--bindir'], { encoding: 'utf8' }).trim()
  } catch (error) {
    throw new Error('There is no PostgreSQL server here; bash .ci/tools installs one', { cause: error })
  }
}

/** PostgreSQL refuses to run as root; then it runs as the user that its package makes. */
function serverOwner(): { readonly uid: number; readonly gid: number } | null {
  if (process.getuid?.() !== 0) return null
  const idOf = (flag: string): number => Number(execFileSync('id', [flag, 'postgres'], { encoding: 'utf8' }))
  return { uid: idOf('-u'), gid: idOf('-g') }
}

/** A port of loopback that nobody has at this moment. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer().once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as AddressInfo
      server.close(() => resolve(port))
    })
  })
}
