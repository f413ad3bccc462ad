// A PostgreSQL server of our own for a test: Debian's programs, a temporary folder, a port that is free.
import { execFile, execFileSync, spawn } from 'node:child_process'
import { chownSync, existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { setTimeout } from 'node:timers/promises'
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
        // Each of the server's children leads a process group of its own: a killed server leaves them at work.
        const children = signal === 'SIGKILL' ? await childrenOf(child.pid) : []
        process.kill(child.pid, signal)
        child.ref()
        await ended
        for (const pid of children) endProcess(pid)
        await waitUntilGone(children)
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

/** Process ids of the children of a process. */
async function childrenOf(pid: number): Promise<number[]> {
  const { stdout } = await run('ps', ['-A', '-o', 'pid=,ppid='])
  return stdout.split('\n').flatMap((line) => {
    const [child, parent] = line.trim().split(/\s+/).map(Number)
    return parent === pid && child !== undefined ? [child] : []
  })
}

/** SIGKILL to a process that may have ended by itself. */
function endProcess(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

/** Until none of these processes runs: what is left of a server in shared memory keeps the next one from starting. */
async function waitUntilGone(pids: readonly number[]): Promise<void> {
  const deadline = Date.now() + 30_000
  for (;;) {
    const { stdout } = await run('ps', ['-A', '-o', 'pid=,stat='])
    const left = stdout.split('\n').filter((line) => {
      const [pid, state] = line.trim().split(/\s+/)
      return pids.includes(Number(pid)) && !state?.startsWith('Z')
    })
    if (left.length === 0) return
    if (Date.now() > deadline) throw new Error(`processes of a killed postgres are still there: ${left.join('; ')}`)
    await setTimeout(20)
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
