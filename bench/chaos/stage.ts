// The two shapes of the service as processes of this machine, and what of them can be killed.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { openDatabase, type Database } from '../../src/service/db/database.ts'
import { dataFolder } from '../../src/service/db/data-folder.ts'
import type { BlobStore } from '../../src/service/files/blob-store.ts'
import { openDiskBlobStore } from '../../src/service/files/disk-blob-store.ts'
import { openS3BlobStore } from '../../src/service/files/s3-blob-store.ts'
import { freePort, startPostgres } from '../../test/support/postgres-server.ts'
import { startS3 } from '../../test/support/s3-server.ts'
import { ServiceProcess } from './process.ts'
import { weighted, type Random } from './random.ts'

export type Shape = 'pglite' | 'postgres'

/** What was killed. */
export type Victim = 'server' | 'worker' | 'engine' | 'database'

/** A service that can be killed in parts. */
export type Stage = AsyncDisposable & {
  readonly urls: readonly string[]
  readonly token: string
  readonly cacheDir: string
  /** Kill something; the returned promise of `back` resolves when it runs again. Null when there was nothing to kill. */
  kill(random: Random): Promise<{ readonly victim: Victim; readonly back: Promise<void> } | null>
  /** Processes that were killed again while they started, beside those of `kill`. */
  readonly killedAtStart: number
  /** End all processes in peace. */
  stop(): Promise<void>
  /** The database and the files, once all processes have ended. */
  open(): Promise<AsyncDisposable & { readonly database: Database; readonly blobs: BlobStore }>
  /** What the processes said last. */
  lastWords(): string
}

const defaultModel = fileURLToPath(new URL('../../test/golden/wide-model/tiny-wide', import.meta.url))
const token = `sepia_${'c'.repeat(43)}`

/** Start the service. */
export async function openStage(shape: Shape, model: string = defaultModel): Promise<Stage> {
  await using resources = new AsyncDisposableStack()
  const folder = mkdtempSync(path.join(tmpdir(), 'sepia-chaos-'))
  resources.defer(() => rmSync(folder, { recursive: true, force: true }))
  const cacheDir = path.join(folder, 'cache')
  const common = { SEPIA_CACHE: cacheDir, SEPIA_TOKEN: token, SEPIA_THREADS: '1', SEPIA_GRACE: '1' }
  const parts = await (shape === 'pglite'
    ? onePart(folder, model, common)
    : manyParts(folder, model, common, resources))
  const { processes, restartDatabase } = parts
  resources.defer(async () => void (await Promise.all(processes.map((process) => process.kill()))))
  for (const process of processes) process.spawn()
  await Promise.all(processes.map((process) => process.ready()))
  const owned = resources.move()

  let killedAtStart = 0
  const restart = async (process: ServiceProcess, random: Random): Promise<void> => {
    process.spawn()
    // Sometimes it dies again while it starts.
    if (random() < 0.2) {
      await Promise.race([process.ready(), new Promise((resolve) => setTimeout(resolve, random() * 2000))])
      await process.kill()
      killedAtStart++
      process.spawn()
    }
    await process.ready()
  }

  return {
    urls: parts.urls,
    token,
    cacheDir,
    async kill(random) {
      const victim = weighted(random, parts.victims)
      if (victim === 'database') return { victim, back: restartDatabase!() }
      const ofKind = processes.filter(({ name }) => victim === 'engine' || name.startsWith(victim))
      if (victim === 'engine') {
        const pids = ofKind.flatMap((process) => process.enginePids())
        if (pids.length === 0) return null
        process.kill(pids[Math.floor(random() * pids.length)], 'SIGKILL')
        return { victim, back: Promise.resolve() }
      }
      const chosen = ofKind[Math.floor(random() * ofKind.length)]
      await chosen.kill()
      return { victim, back: restart(chosen, random) }
    },
    get killedAtStart() {
      return killedAtStart
    },
    async stop() {
      await Promise.all(processes.map((process) => process.stop()))
    },
    open: parts.open,
    lastWords: () => processes.map(({ name, output }) => `== ${name}\n${output.slice(-3000)}`).join('\n'),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}

type Parts = Pick<Stage, 'urls' | 'open'> & {
  readonly processes: readonly ServiceProcess[]
  readonly victims: readonly (readonly [Victim, number])[]
  readonly restartDatabase: (() => Promise<void>) | null
}

/** One process with its data folder. */
async function onePart(folder: string, model: string, common: Readonly<Record<string, string>>): Promise<Parts> {
  const port = await freePort()
  const dataDir = path.join(folder, 'data')
  const argv = ['serve', '--data', dataDir, '--model', model, '--port', `${port}`, '--engines', '2']
  return {
    urls: [`http://127.0.0.1:${port}`],
    processes: [new ServiceProcess('server', argv, common, 'listens at')],
    victims: [
      ['server', 2],
      ['engine', 1],
    ],
    restartDatabase: null,
    async open() {
      const database = await openDatabase({ kind: 'pglite', dataDir })
      const blobs = await openDiskBlobStore(dataFolder(dataDir).files)
      return { database, blobs, [Symbol.asyncDispose]: () => database[Symbol.asyncDispose]() }
    },
  }
}

/** Two servers and two workers on PostgreSQL and S3. */
async function manyParts(
  folder: string,
  model: string,
  common: Readonly<Record<string, string>>,
  resources: AsyncDisposableStack,
): Promise<Parts> {
  const postgres = resources.use(await startPostgres())
  const s3 = resources.use(await startS3())
  const url = await postgres.createDatabase('chaos')
  const place = await s3.makeBucket('chaos')
  const env = {
    ...common,
    DATABASE_URL: url,
    SEPIA_S3_BUCKET: place.bucket,
    SEPIA_S3_ENDPOINT: place.endpoint!,
    SEPIA_S3_ACCESS_KEY_ID: place.accessKeyId!,
    SEPIA_S3_SECRET_ACCESS_KEY: place.secretAccessKey!,
    SEPIA_DATA: path.join(folder, 'data'),
  }
  const ports = [await freePort(), await freePort()]
  const servers = ports.map((port, index) => {
    const argv = ['serve', '--role', 'api', '--model', model, '--port', `${port}`]
    return new ServiceProcess(`server ${index}`, argv, env, 'listens at')
  })
  const workers = [0, 1].map(
    (index) => new ServiceProcess(`worker ${index}`, ['worker', '--model', model], env, 'works on'),
  )
  return {
    urls: ports.map((port) => `http://127.0.0.1:${port}`),
    processes: [...servers, ...workers],
    victims: [
      ['server', 2],
      ['worker', 3],
      ['engine', 2],
      ['database', 1],
    ],
    restartDatabase: () => postgres.restart(),
    async open() {
      const stack = new AsyncDisposableStack()
      const database = stack.use(await openDatabase({ kind: 'postgres', url }))
      const blobs = stack.use(await openS3BlobStore(place))
      return { database, blobs, [Symbol.asyncDispose]: () => stack.disposeAsync() }
    },
  }
}
