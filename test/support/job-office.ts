// The office without its door: jobs, dispatcher and engines on a database and a folder of files, for tests.
import { fileURLToPath } from 'node:url'
import { createAccount, type Account } from '../../src/service/accounts/account.ts'
import { AssetNotices } from '../../src/service/assets/asset-notices.ts'
import { defaultPrices } from '../../src/service/billing/price-list.ts'
import { openDatabase, type Database, type DatabasePlace } from '../../src/service/db/database.ts'
import type { Deployment } from '../../src/service/engines/deployment.ts'
import type { BlobStore } from '../../src/service/files/blob-store.ts'
import { openDiskBlobStore } from '../../src/service/files/disk-blob-store.ts'
import type { GenerateOrder } from '../../src/service/jobs/generate-order.ts'
import { JobNotices } from '../../src/service/jobs/job-notices.ts'
import { startJobRunner, type JobRunner, type RunnerContext } from '../../src/service/jobs/job-runner.ts'
import { openJobs, type Jobs, type JobsContext } from '../../src/service/jobs/jobs.ts'
import { MessageQueue } from '../../src/service/jobs/message-queue.ts'
import { createMetrics, type Metrics } from '../../src/service/metrics.ts'
import { createLogger, type Logger } from '../../src/logger.ts'
import type { SubmitContext } from '../../src/service/jobs/submit-job.ts'

/** An engine program whose tasks do what their prompts say. */
export const fixtureEngine = new URL('../service/fixture-engine.ts', import.meta.url)
export const tinyA = fileURLToPath(new URL('../golden/models/tiny-a', import.meta.url))

/** A deployment whose models nobody opens. */
export const fixtureDeployment: Deployment = {
  backend: 'onnxruntime',
  precision: 'fp32',
  model: { path: 'model', hash: 'a'.repeat(64) },
  refiner: null,
}

/** One process's share of the office. */
export type Office = AsyncDisposable & {
  readonly context: JobsContext & RunnerContext
  readonly database: Database
  readonly blobs: BlobStore
  readonly jobs: Jobs
  readonly metrics: Metrics
  /** What was logged, as objects. */
  readonly log: readonly Readonly<Record<string, unknown>>[]
  /** Begin to work on jobs. */
  run(options?: RunOptions): Promise<JobRunner>
}

export type RunOptions = {
  readonly engines?: number
  readonly entry?: URL | undefined
  readonly deployment?: Deployment
  readonly cacheDir?: string
}

/** Open the office on a database that is there already. Files lie in `filesDir`. */
export async function openOffice(
  place: DatabasePlace,
  filesDir: string,
  overrides: Partial<SubmitContext> = {},
): Promise<Office> {
  await using resources = new AsyncDisposableStack()
  const database = resources.use(await openDatabase(place))
  const log: Record<string, unknown>[] = []
  const logger: Logger = createLogger('debug', {
    write: (line: string) => void log.push(JSON.parse(line) as Record<string, unknown>),
  })
  const messages = resources.use(await MessageQueue.open(database, (error) => logger.error({ err: error }, 'queue')))
  const notices = resources.use(await JobNotices.open(database))
  const assetNotices = resources.use(await AssetNotices.open(database))
  const metrics = createMetrics(database.db)
  const blobs = await openDiskBlobStore(filesDir)
  const context: JobsContext & RunnerContext = {
    database,
    messages,
    notices,
    assetNotices,
    blobs,
    metrics,
    log: logger,
    now: () => new Date(),
    deployment: fixtureDeployment,
    prices: defaultPrices,
    wordList: null,
    maxQueueLength: 1000,
    ...overrides,
  }
  let latest: JobRunner | null = null
  const jobs = resources.use(await openJobs({ reserve: (queue) => latest?.reserve(queue) ?? null, ...context }))
  const owned = resources.move()
  return {
    context,
    database,
    blobs,
    metrics,
    log,
    jobs,
    async run({ engines = 1, entry = fixtureEngine, deployment = context.deployment, cacheDir = filesDir } = {}) {
      const settings = {
        device: 'cpu',
        backend: deployment.backend,
        precision: deployment.precision,
        threads: 1,
        cacheDir,
        cacheLimitBytes: 1e9,
      } as const
      const runner = await startJobRunner(context, {
        deployment,
        engines,
        settings,
        memoryLimitBytes: null,
        engineEntry: entry,
      })
      latest = owned.use(runner)
      return latest
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}

let accountCount = 0

/** An account of its own. */
export function newAccount(database: Database, limits: Partial<Account> = {}): Promise<Account> {
  return createAccount(database.db, { name: `account-${++accountCount}`, ...limits })
}

/** An order for one small picture. */
export function orderFor(prompt: string, changes: Partial<GenerateOrder> = {}): GenerateOrder {
  return {
    prompt,
    prompt2: null,
    negativePrompt: null,
    negativePrompt2: null,
    checkpoint: null,
    loras: {},
    textualInversions: {},
    vae: null,
    sampler: 'DDIM',
    width: 64,
    height: 64,
    guidanceScale: 7,
    numInferenceSteps: 2,
    seeds: [1],
    initImage: null,
    strength: 0.8,
    maskImage: null,
    outpainting: false,
    inpaintFullRes: false,
    inpaintFullResPadding: 32,
    useRefiner: false,
    denoisingEnd: 0.8,
    clipSkip: null,
    stylePreset: null,
    imageEncoding: 'png',
    logPrompt: false,
    enableSafety: false,
    ...changes,
  }
}

/** How most test orders come in. */
export const asynchronous = { route: 'generate', synchronous: false, idempotency: null } as const
export const synchronous = { route: 'generate', synchronous: true, idempotency: null } as const
