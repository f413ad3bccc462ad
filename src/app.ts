// The service put together: what is opened when, who needs whom, and in which order all of it ends.
import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import type { HttpServer, HttpServices } from '#http/context.ts'
import { createHttpServer } from '#http/server.ts'
import { requireAccount, type Account } from '#service/accounts/account.ts'
import { openKnownTokens } from '#service/accounts/known-tokens.ts'
import { takeRequest } from '#service/accounts/rate-limit.ts'
import { loadWordList } from '#service/accounts/word-list.ts'
import { AssetFiles } from '#service/assets/asset-files.ts'
import { openAssetLibrary } from '#service/assets/asset-library.ts'
import { AssetNotices } from '#service/assets/asset-notices.ts'
import type { RemoteSettings } from '#service/assets/fetch-remote.ts'
import { scanPublicFolders } from '#service/assets/public-folder.ts'
import type { LibraryContext } from '#service/assets/public-library.ts'
import { serveAdmin } from '#service/admin/admin-socket.ts'
import { firstAccount } from '#service/admin/first-account.ts'
import { defaultPrices, loadPriceList } from '#service/billing/price-list.ts'
import { startStorageCharge } from '#service/billing/storage-charge.ts'
import { usage } from '#service/billing/usage.ts'
import { dataFolder, lockDataFolder } from '#service/db/data-folder.ts'
import { openDatabase, type Database } from '#service/db/database.ts'
import { inspectDeployment, type Deployment } from '#service/engines/deployment.ts'
import type { BlobStore } from '#service/files/blob-store.ts'
import { openDiskBlobStore } from '#service/files/disk-blob-store.ts'
import { openS3BlobStore, type S3Place } from '#service/files/s3-blob-store.ts'
import { JobNotices } from '#service/jobs/job-notices.ts'
import { startJobRunner, type JobRunner } from '#service/jobs/job-runner.ts'
import { openJobs } from '#service/jobs/jobs.ts'
import type { Reserve } from '#service/jobs/reservation.ts'
import { MessageQueue } from '#service/jobs/message-queue.ts'
import { createMetrics, type Metrics } from '#service/metrics.ts'
import type { EngineChoice, EngineSettings } from '#worker/protocol.ts'
import { AppError } from './errors.ts'
import { createLogger, type Logger, type LogLevel } from './logger.ts'

/** What a process needs that works on jobs or accepts them. */
export type OfficeConfig = {
  readonly dataDir: string
  /** Null: a database of this process in `dataDir`. */
  readonly databaseUrl: string | null
  /** Null: files in `dataDir`. */
  readonly s3: S3Place | null
  readonly model: string
  readonly refiner: string | null
  /** Engine processes. */
  readonly engines: number
  readonly engine: Omit<EngineSettings, 'scratchDir'>
  /** Private memory of all engines together; null: no limit. */
  readonly memoryLimitBytes: number | null
  /** How long what runs may go on when the process ends. */
  readonly graceMs: number
  readonly logLevel: LogLevel
}

/** The whole service, resolved and checked. */
export type AppConfig = OfficeConfig & {
  /** `api` accepts jobs and leaves them to workers. */
  readonly role: 'all' | 'api'
  readonly host: string
  /** 0 takes a free one. */
  readonly port: number
  readonly publicUrl: string | null
  /** False: everybody is the account "default"; on a loopback address only. */
  readonly auth: boolean
  readonly firstToken: string | null
  readonly metricsToken: string | null
  readonly priceListFile: string | null
  readonly wordListFile: string | null
  readonly corsOrigins: readonly string[]
  readonly maxQueueLength: number
  /** Folders whose files are the public library. */
  readonly publicFolders: readonly string[]
  /** What the server may fetch by itself. */
  readonly remote: RemoteSettings
}

/** What tests and commands may put in place of the usual. */
export type AppOverrides = {
  /** Aborted to give up starting. */
  readonly signal?: AbortSignal | undefined
  /** Aborted when the end may not take time any more. */
  readonly urgent?: AbortSignal | undefined
  /** Another engine program than worker/main.ts. */
  readonly engineEntry?: URL | undefined
  readonly logger?: Logger | undefined
  readonly now?: (() => Date) | undefined
  readonly newRequestId?: (() => string) | undefined
}

/** A service that answers; disposal takes no new work, lets what runs go on for a while, and ends. */
export type App = AsyncDisposable & {
  /** Where it listens, without a slash at its end. */
  readonly url: string
  /** The token of the account that was made because there was none; it is told only now. */
  readonly firstToken: string | null
  /** Process ids of the engines. */
  readonly enginePids: readonly number[]
  /** What pictures are computed with, `auto` resolved. */
  readonly engine: EngineChoice
}

/** Database, files and queue of the service, as all its processes open them. */
export type Office = {
  readonly database: Database
  readonly blobs: BlobStore
  readonly messages: MessageQueue
  readonly notices: JobNotices
  readonly assetNotices: AssetNotices
  readonly metrics: Metrics
  readonly deployment: Deployment
  readonly log: Logger
  readonly now: () => Date
}

/** How the service ends. */
type Ending = {
  readonly stopping: AbortController
  readonly stopped: AbortController
  readonly urgent: AbortSignal | undefined
  graceMs: number
}

/** How long answers that are under way may take once everything else has ended. */
const lastAnswersMs = 5_000
/** How long when there is no time: enough to write what those who still wait are told. */
const lastWordsMs = 200

/**
 * Open what every process of the service shares; `resources` ends it. Throws what is wrong with the database, the bucket, the
 * data folder or the models.
 */
export async function openOffice(
  config: OfficeConfig,
  { signal, engineEntry, logger, now = () => new Date() }: AppOverrides,
  resources: AsyncDisposableStack,
): Promise<Office> {
  const root = logger ?? createLogger(config.logLevel)
  const log = root.child({ room: 'service' })
  // The models first: a wrong one is refused before anything is written.
  const paths = { model: config.model, refiner: config.refiner }
  const deployment = await inspectDeployment(config.engine, paths, { signal, entry: engineEntry })
  const { databaseUrl, dataDir, s3 } = config
  if (databaseUrl !== null && s3 === null) resources.use(lockDataFolder(dataDir))
  const place =
    databaseUrl === null ? { kind: 'pglite' as const, dataDir } : { kind: 'postgres' as const, url: databaseUrl }
  const onError = (error: unknown) => log.error({ err: error }, 'the database failed')
  const database = resources.use(await openDatabase(place, { onError }))
  const blobs =
    s3 === null ? await openDiskBlobStore(dataFolder(dataDir).files) : resources.use(await openS3BlobStore(s3))
  const messages = resources.use(await MessageQueue.open(database, onError))
  const notices = resources.use(await JobNotices.open(database))
  const assetNotices = resources.use(await AssetNotices.open(database))
  const metrics = createMetrics(database.db)
  return { database, blobs, messages, notices, assetNotices, metrics, deployment, log, now }
}

/** What an operator's commands about assets need, in a process that can start engines. */
export function libraryOf(
  office: Office,
  { engine: settings }: Pick<OfficeConfig, 'engine'>,
  engineEntry?: URL,
): LibraryContext {
  const assetFiles = new AssetFiles({ ...settings, blobs: office.blobs })
  return { ...office, settings, assetFiles, model: office.deployment.model.path, engineEntry }
}

/** Start the service. Throws an AppError for whatever keeps it from starting, and leaves nothing running then. */
export async function createApp(config: AppConfig, overrides: AppOverrides = {}): Promise<App> {
  const logger = overrides.logger ?? createLogger(config.logLevel)
  const { urgent } = overrides
  // As long as it has not started, nobody waits for anything.
  const ending: Ending = { stopping: new AbortController(), stopped: new AbortController(), urgent, graceMs: 0 }
  await using resources = new AsyncDisposableStack()

  const prices = config.priceListFile === null ? defaultPrices : await loadPriceList(config.priceListFile)
  const wordList = config.wordListFile === null ? null : await loadWordList(config.wordListFile)
  const office = await openOffice(config, { ...overrides, logger }, resources)
  const { db } = office.database
  let runner: JobRunner | null = null
  const reserve: Reserve = (queue) => runner?.reserve(queue) ?? null
  const { maxQueueLength } = config
  const jobs = resources.use(await openJobs({ ...office, prices, wordList, maxQueueLength, reserve }))
  resources.use(await startStorageCharge(db, prices, office))
  const library = resources.use(await openAssetLibrary({ ...office, remote: config.remote }))
  if (config.role === 'all') runner = resources.use(await startRunner(office, config, overrides))

  const everybody = config.auth ? null : await openAccount(db)
  const tokens = resources.use(await openKnownTokens(office.database))
  const services: HttpServices = {
    jobs,
    assets: library,
    authenticate: (token) => tokens.authenticate(token),
    takeRequest: (account) => takeRequest(db, account, office.now()),
    usage: (account, from, to) => usage(db, account, from, to),
    metrics: () => office.metrics.scrape(),
  }
  const server = await createHttpServer(services, {
    logger: logger.child({ room: 'http' }),
    publicUrl: config.publicUrl,
    everybody,
    corsOrigins: config.corsOrigins,
    metricsToken: config.metricsToken,
    version: packageVersion(),
    // Workers elsewhere share the precision, by the queue's name, but not always the backend.
    computedWith: { ...office.deployment, ...(config.role === 'api' && { backend: null }) },
    newRequestId: overrides.newRequestId ?? randomUUID,
    stopping: ending.stopping.signal,
    stopped: ending.stopped.signal,
  })
  resources.defer(() => endServer(server, runner, ending))
  const administered = { db, library: libraryOf(office, config, overrides.engineEntry) }
  // Before the first request, which may name what is in them.
  await scanPublicFolders(administered.library, config.publicFolders, overrides.signal)
  await listen(server, config)
  if (config.databaseUrl === null) resources.use(await serveAdmin(administered, dataFolder(config.dataDir).adminSocket))
  // At the very end, so that the token is told only by a service that runs.
  const first = await firstAccount(db, config.firstToken)
  ending.graceMs = config.graceMs
  const owned = resources.move()
  return {
    url: urlOf(server, config),
    firstToken: first?.token ?? null,
    engine: office.deployment,
    get enginePids() {
      return runner?.enginePids ?? []
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}

function startRunner(office: Office, config: AppConfig, { engineEntry }: AppOverrides): Promise<JobRunner> {
  const { engines, engine: settings, memoryLimitBytes } = config
  const { deployment } = office
  const { backend, precision } = deployment
  return startJobRunner(office, {
    deployment,
    engines,
    settings: { ...settings, backend, precision },
    memoryLimitBytes,
    engineEntry,
  })
}

/** The account that everybody is where nobody is asked for a token. */
async function openAccount(db: Database['db']): Promise<Account> {
  return (await firstAccount(db, null))?.account ?? requireAccount(db, 'default')
}

async function listen(server: HttpServer, { host, port }: AppConfig): Promise<void> {
  try {
    await server.listen({ host, port })
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    const why = listenFaults[code ?? '']
    if (why === undefined) throw error
    throw new AppError('bad_argument', `cannot listen at ${host} port ${port}: ${why}`, { cause: error })
  }
}

const listenFaults: Readonly<Record<string, string>> = {
  EADDRINUSE: 'the port is in use',
  EACCES: 'this user may not use the port',
  EADDRNOTAVAIL: 'this machine does not have the address',
  ENOTFOUND: 'the name is not known',
}

/** Refuse new work, let what runs go on for a while, tell those who still wait, and close. */
async function endServer(server: HttpServer, runner: JobRunner | null, ending: Ending): Promise<void> {
  const { stopping, stopped, graceMs, urgent } = ending
  stopping.abort()
  if (runner) {
    await within(runner.drain(graceMs), graceMs, urgent)
    await runner.drain(0)
  } else await within(server.close(), graceMs, urgent)
  stopped.abort()
  const closed = server.close()
  await within(closed, lastAnswersMs, urgent)
  await within(closed, lastWordsMs, undefined)
  server.server.closeAllConnections()
  await closed
}

/** Wait for `work`, but no longer than `limitMs`, and not when it becomes urgent. */
async function within(work: Promise<unknown>, limitMs: number, urgent: AbortSignal | undefined): Promise<void> {
  const { promise: enough, resolve } = Promise.withResolvers<void>()
  const timer = setTimeout(resolve, limitMs)
  urgent?.addEventListener('abort', () => resolve(), { once: true })
  if (urgent?.aborted) resolve()
  await Promise.race([work, enough])
  clearTimeout(timer)
}

/** Where clients find the server: an address that stands for all of them is none that one can go to. */
function urlOf(server: HttpServer, { host }: AppConfig): string {
  const { port } = server.server.address() as AddressInfo
  const name = host === '0.0.0.0' || host === '::' ? 'localhost' : host
  return `http://${name.includes(':') ? `[${name}]` : name}:${port}`
}

function packageVersion(): string {
  const text = readFileSync(new URL('../package.json', import.meta.url), 'utf8')
  return (JSON.parse(text) as { version: string }).version
}
