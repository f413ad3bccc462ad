// Everything that a process needs to work on jobs, in `sepia serve` and in `sepia worker`: engine processes, the
// dispatcher, and housekeeping.
import { sql, eq, and, notInArray } from 'drizzle-orm'
import type { EngineSettings } from '#worker/protocol.ts'
import { AssetFiles } from '../assets/asset-files.ts'
import { AssetInspector } from '../assets/asset-inspector.ts'
import type { AssetNotices } from '../assets/asset-notices.ts'
import { inspectionQueue } from '../assets/complete-upload.ts'
import { jobs } from '../db/schema.ts'
import { queuesOf, type Deployment } from '../engines/deployment.ts'
import { EnginePool } from '../engines/engine-pool.ts'
import { Dispatcher, type DispatcherContext } from './dispatcher.ts'
import { startHousekeeping } from './housekeeping.ts'
import { takeBackJob, type JobStore } from './job-transitions.ts'
import type { Reserve } from './reservation.ts'

/** What {@link startJobRunner} needs. */
export type JobRunnerOptions = {
  readonly deployment: Deployment
  readonly engines: number
  readonly settings: Omit<EngineSettings, 'scratchDir'>
  readonly memoryLimitBytes: number | null
  /** Another engine program than worker/main.ts. */
  readonly engineEntry?: URL | undefined
}

/** Works on jobs until it is drained or disposed. */
export type JobRunner = AsyncDisposable & {
  /** Jobs that run in this process. */
  readonly running: number
  /** Keep a free engine process for a job that is just being accepted. */
  readonly reserve: Reserve
  /** Process ids of the engines. */
  readonly enginePids: readonly number[]
  /** Take nothing more, let what runs end within `graceMs`, and give back the rest. */
  drain(graceMs: number): Promise<void>
}

/** What a runner needs of the surroundings. */
export type RunnerContext = Omit<DispatcherContext, 'queues' | 'assetFiles'> & { readonly assetNotices: AssetNotices }

/** Start the engines and take jobs of the deployment's queues. Rejects with what starting an engine throws. */
export async function startJobRunner(
  context: RunnerContext,
  { deployment, engines, settings, memoryLimitBytes, engineEntry }: JobRunnerOptions,
): Promise<JobRunner> {
  await using resources = new AsyncDisposableStack()
  let dispatcher: Dispatcher | null = null
  const pool = resources.use(
    await EnginePool.start({
      size: engines,
      settings,
      memoryLimitBytes,
      log: context.log,
      entry: engineEntry,
      onFree: () => dispatcher?.look(),
      onRestart: (reason) => context.metrics.engineRestarted(reason),
    }),
  )
  // The data folder belongs to this process, so whoever ran something before is gone.
  if (context.database.kind === 'pglite') await takeBackRunning(context)
  resources.use(await startHousekeeping(context))
  const queues = queuesOf(deployment)
  const assetFiles = new AssetFiles({ ...settings, blobs: context.blobs })
  dispatcher = resources.use(await Dispatcher.start({ ...context, queues, assetFiles }, pool))
  const queue = inspectionQueue(deployment)
  const model = deployment.model.path
  resources.use(await AssetInspector.start({ ...context, assetFiles, queue, model, settings, engineEntry }))
  await tellOtherQueues(context, [...queues.keys()])
  const owned = resources.move()
  const running = dispatcher
  return {
    get running() {
      return running.running
    },
    get enginePids() {
      return pool.pids
    },
    reserve: (queue) => running.reserve(queue),
    drain: (graceMs) => running.drain(graceMs),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}

async function takeBackRunning(context: JobStore): Promise<void> {
  const left = await context.database.db.select().from(jobs).where(eq(jobs.state, 'running'))
  for (const job of left) await takeBackJob(context, job)
}

/** Jobs of another model or precision stay where they are; somebody may wonder why. */
async function tellOtherQueues(
  { database, log }: Pick<DispatcherContext, 'database' | 'log'>,
  queues: readonly string[],
): Promise<void> {
  const others = await database.db
    .select({ queue: jobs.queue, waiting: sql<number>`count(*)::int` })
    .from(jobs)
    .where(and(eq(jobs.state, 'queued'), notInArray(jobs.queue, [...queues])))
    .groupBy(jobs.queue)
  for (const { queue, waiting } of others)
    log.warn({ queue, waiting, queues }, 'jobs of another model or precision wait, which this process does not take')
}
