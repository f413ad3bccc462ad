// Numbers for Prometheus. What one process sees it counts itself; what all share is read from the database when asked.
import { inArray, sql } from 'drizzle-orm'
import { Counter, Gauge, Histogram, Registry } from 'prom-client'
import type { GenerateTask, Timings } from '#worker/protocol.ts'
import { ledgerTotals } from './billing/ledger-closing.ts'
import type { Drizzle } from './db/database.ts'
import { jobs, type JobState } from './db/schema.ts'
import type { RestartReason } from './engines/engine-pool.ts'

/** What jobs report. */
export type JobMetrics = {
  /** A job began to run `waitMs` after it was accepted. */
  jobStarted(waitMs: number): void
  pictureMade(task: GenerateTask, timings: Timings): void
  /** A job ended `runMs` after its first start; null: it never ran. */
  jobEnded(sampler: string | null, state: JobState, runMs: number | null): void
  engineRestarted(reason: RestartReason): void
}

/** All numbers of this process. */
export type Metrics = JobMetrics & {
  /** For numbers of other rooms. */
  readonly registry: Registry
  /** The text that Prometheus reads, and its content type. */
  scrape(): Promise<{ readonly contentType: string; readonly text: string }>
}

const waitBuckets = [0.01, 0.05, 0.25, 1, 5, 15, 60, 300, 1800, 7200]
const stepBuckets = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100]
const pictureBuckets = [0.1, 0.5, 1, 5, 15, 60, 180, 600, 1800, 7200]

/** Count from now on; queue and ledger are read from `db`. */
export function createMetrics(db: Drizzle): Metrics {
  const registry = new Registry()
  const registers = [registry]
  const wait = new Histogram({
    name: 'sepia_job_wait_seconds',
    help: 'Time from acceptance to the first start of a job.',
    buckets: waitBuckets,
    registers,
  })
  const step = new Histogram({
    name: 'sepia_step_seconds',
    help: 'Time of one denoising step.',
    labelNames: ['sampler'],
    buckets: stepBuckets,
    registers,
  })
  const picture = new Histogram({
    name: 'sepia_picture_seconds',
    help: 'Time of one picture in the engine.',
    labelNames: ['sampler'],
    buckets: pictureBuckets,
    registers,
  })
  const run = new Histogram({
    name: 'sepia_job_seconds',
    help: 'Time from the first start of a job to its end.',
    labelNames: ['sampler', 'outcome'],
    buckets: pictureBuckets,
    registers,
  })
  const ended = new Counter({
    name: 'sepia_jobs_ended_total',
    help: 'Jobs that ended in this process.',
    labelNames: ['sampler', 'outcome'],
    registers,
  })
  const restarts = new Counter({
    name: 'sepia_engine_restarts_total',
    help: 'Engine processes that were replaced.',
    labelNames: ['reason'],
    registers,
  })
  addQueueDepth(db, registers)
  addLedgerTotals(db, registers)
  return {
    registry,
    jobStarted: (waitMs) => wait.observe(waitMs / 1000),
    pictureMade({ sampler, seeds }, { stepMs, totalMs }) {
      for (const ms of stepMs) step.observe({ sampler }, ms / 1000)
      for (const _ of seeds) picture.observe({ sampler }, totalMs / seeds.length / 1000)
    },
    jobEnded(sampler, outcome, runMs) {
      const labels = { sampler: sampler ?? 'unknown', outcome }
      ended.inc(labels)
      if (runMs !== null) run.observe(labels, runMs / 1000)
    },
    engineRestarted: (reason) => restarts.inc({ reason }),
    scrape: async () => ({ contentType: registry.contentType, text: await registry.metrics() }),
  }
}

function addQueueDepth(db: Drizzle, registers: Registry[]): void {
  const depth = new Gauge({
    name: 'sepia_jobs',
    help: 'Jobs that wait or run, in all processes.',
    labelNames: ['state', 'queue'],
    registers,
    async collect() {
      const rows = await db
        .select({ state: jobs.state, queue: jobs.queue, count: sql<number>`count(*)::int` })
        .from(jobs)
        .where(inArray(jobs.state, ['queued', 'running']))
        .groupBy(jobs.state, jobs.queue)
      depth.reset()
      for (const { state, queue, count } of rows) depth.set({ state, queue }, count)
    },
  })
}

function addLedgerTotals(db: Drizzle, registers: Registry[]): void {
  const totals = new Gauge({
    name: 'sepia_ledger_micros',
    help: 'Micro-dollars over all accounts: credited, held now, and spent.',
    labelNames: ['kind'],
    registers,
    async collect() {
      const { balanceMicros, heldMicros: held, spentMicros: spent } = await ledgerTotals(db)
      // What is not in the balance any more was credited as well.
      const sums = { credited: balanceMicros + held + spent, held, spent }
      for (const [kind, micros] of Object.entries(sums)) totals.set({ kind }, Number(micros))
    },
  })
}
