// The dispatcher brings queued jobs and free engine processes together. It is woken by notices, so that nothing waits for
// a poll; a slow poll finds what notices missed. Leases are renewed while jobs run; a job whose lease is gone is stopped.
import { eq } from 'drizzle-orm'
import { jobs } from '../db/schema.ts'
import type { QueueModels } from '../engines/deployment.ts'
import type { EngineLease, EnginePool } from '../engines/engine-pool.ts'
import { claimJob } from './claim-job.ts'
import type { JobNotice, JobNotices } from './job-notices.ts'
import { takeBackJob, type Claim } from './job-transitions.ts'
import { leaseSeconds } from './message-queue.ts'
import { queuesInOrder } from './queue-order.ts'
import type { Reservation } from './reservation.ts'
import { runJob, type RunContext, type StopReason } from './run-job.ts'
import { watchedForMs } from './watch-job.ts'

/** What a dispatcher needs of the surroundings. */
export type DispatcherContext = RunContext & {
  readonly notices: JobNotices
  /** Queues that this process can serve, with the files for their jobs. */
  readonly queues: ReadonlyMap<string, QueueModels>
}

/** A job on an engine process. */
type Running = {
  readonly claim: Claim
  readonly stop: AbortController
  readonly done: Promise<void>
  /** Whether the claim stands in the database. */
  accepted: boolean
}

/** Leases are renewed three times before they lapse, and as often it is looked for what notices missed. */
const beatMs = (leaseSeconds * 1000) / 3

/** Takes jobs as long as it is not drained. */
export class Dispatcher implements AsyncDisposable {
  readonly #context: DispatcherContext
  readonly #pool: EnginePool
  readonly #running = new Map<string, Running>()
  /** Job → until when somebody watches it. */
  readonly #watched = new Map<string, number>()
  readonly #ear: Disposable
  readonly #heart: NodeJS.Timeout
  #renewedMs = performance.now()
  #renewing: Promise<void> | null = null
  /** Whether somebody may wait whom nobody has looked for. */
  #hungry = false
  /** Whether a job was passed over because its account had enough running. */
  #passedOver = false
  readonly #reserved = new Set<Promise<void>>()
  #filling: Promise<void> | null = null
  #draining = false

  /** Make the queues and begin to take jobs. */
  static async start(context: DispatcherContext, pool: EnginePool): Promise<Dispatcher> {
    for (const queue of context.queues.keys()) await context.messages.create(queue)
    const dispatcher = new Dispatcher(context, pool)
    context.log.info({ queues: [...context.queues.keys()] }, 'dispatcher takes jobs')
    dispatcher.wake()
    return dispatcher
  }

  private constructor(context: DispatcherContext, pool: EnginePool) {
    this.#context = context
    this.#pool = pool
    this.#ear = context.notices.subscribeAll({
      onNotice: (notice) => this.#hear(notice),
      onGap: () => this.wake(),
    })
    this.#heart = setInterval(() => this.#beat(), beatMs)
  }

  /** Jobs that run in this process. */
  get running(): number {
    return this.#running.size
  }

  /** Look for work as soon as a process is free. */
  wake(): void {
    this.#hungry = true
    this.look()
  }

  /** Look for work if there may be any; to be called when a process of the pool became free. */
  look(): void {
    if (!this.#hungry || this.#draining || this.#pool.free === 0) return
    this.#filling ??= this.#fill().finally(() => {
      this.#filling = null
      // It may have been called while the last look was ending.
      this.look()
    })
  }

  /** Keep a free process for a job that is just being accepted. */
  reserve(queue: string): Reservation | null {
    if (this.#draining || !this.#context.queues.has(queue)) return null
    // Somebody may wait, and would go first.
    if (this.#hungry || this.#filling) return null
    const lease = this.#pool.lease(queue)
    if (!lease) return null
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#reserved.add(promise)
    const settle = (): void => {
      this.#reserved.delete(promise)
      resolve()
    }
    let run: Promise<void> | null = null
    return {
      start: (claim, accepted) => {
        run = this.#start(claim, lease, accepted)
        settle()
      },
      release: async () => {
        if (run) return run
        await lease[Symbol.asyncDispose]()
        settle()
        this.look()
      },
    }
  }

  /** Take nothing more, let what runs end within `graceMs`, and give back the rest. */
  async drain(graceMs: number): Promise<void> {
    this.#draining = true
    await this.#filling
    await Promise.all(this.#reserved)
    const runs = [...this.#running.values()]
    if (runs.length === 0) return
    this.#context.log.info({ running: runs.length, graceMs }, 'dispatcher takes no more jobs')
    const timer = setTimeout(() => this.#stopAll('returned'), graceMs)
    await Promise.all(runs.map(({ done }) => done))
    clearTimeout(timer)
  }

  #hear(notice: JobNotice): void {
    switch (notice.type) {
      case 'state':
        if (notice.state === 'cancelled') this.#running.get(notice.jobId)?.stop.abort('superseded' satisfies StopReason)
        // An end makes room for the next job of its account.
        if (notice.state === 'queued' || (notice.state !== 'running' && this.#passedOver)) this.wake()
        break
      case 'watched':
        this.#watched.set(notice.jobId, performance.now() + watchedForMs)
        break
      case 'progress':
      case 'preview':
        break
      default:
        notice satisfies never
    }
  }

  async #fill(): Promise<void> {
    const { log } = this.#context
    while (this.#hungry && !this.#draining) {
      const lease = this.#pool.lease()
      if (!lease) return
      // What is heard from here on is looked for again.
      this.#hungry = false
      this.#passedOver = false
      let claim: Claim | null = null
      try {
        claim = await this.#claim(lease.loaded)
      } catch (error) {
        // The next beat tries again.
        log.error({ err: error }, 'no job could be taken')
      }
      if (claim) {
        this.#hungry = true
        void this.#start(claim, lease)
      } else await lease[Symbol.asyncDispose]()
    }
  }

  async #claim(loaded: string | null): Promise<Claim | null> {
    const { database, now, queues } = this.#context
    for (const queue of await queuesInOrder(database.db, [...queues.keys()], loaded, now())) {
      const claim = await claimJob(this.#context, queue, () => (this.#passedOver = true))
      if (claim) return claim
    }
    return null
  }

  /** Resolves when the run is over and its process free. */
  #start(claim: Claim, lease: EngineLease, accepted: Promise<boolean> = Promise.resolve(true)): Promise<void> {
    const { queues } = this.#context
    const { id } = claim.job
    const stop = new AbortController()
    const attempt = {
      claim,
      models: queues.get(claim.message.queue)!,
      lease,
      signal: stop.signal,
      accepted,
      isWatched: () => (this.#watched.get(id) ?? 0) > performance.now(),
    }
    const done = this.#finish(runJob(this.#context, attempt), id, lease)
    const running: Running = { claim, stop, done, accepted: false }
    this.#running.set(id, running)
    void this.#awaitAcceptance(running, accepted)
    if (this.#draining) stop.abort('returned' satisfies StopReason)
    return done
  }

  async #awaitAcceptance(running: Running, accepted: Promise<boolean>): Promise<void> {
    const { attempt, createdAt, startedAt } = running.claim.job
    running.accepted = await accepted
    if (!running.accepted) running.stop.abort('superseded' satisfies StopReason)
    else if (attempt === 1 && startedAt) this.#context.metrics.jobStarted(startedAt.getTime() - createdAt.getTime())
  }

  async #finish(run: Promise<void>, jobId: string, lease: EngineLease): Promise<void> {
    try {
      await run
    } catch (error) {
      this.#context.log.error({ job: jobId, err: error }, 'an attempt ended in a way that was not foreseen')
    }
    this.#running.delete(jobId)
    this.#watched.delete(jobId)
    await lease[Symbol.asyncDispose]()
  }

  #beat(): void {
    const nowMs = performance.now()
    for (const [jobId, untilMs] of this.#watched) if (untilMs < nowMs) this.#watched.delete(jobId)
    // By now the database gives our jobs to others, or will as soon as it can be reached.
    if (nowMs - this.#renewedMs > leaseSeconds * 1000) this.#stopAll('superseded')
    this.#renewing ??= this.#renew(nowMs).finally(() => (this.#renewing = null))
    this.wake()
  }

  /** Renew the leases and stop what is not ours any more. */
  async #renew(nowMs: number): Promise<void> {
    const { log, messages, database } = this.#context
    const runs = [...this.#running.values()].filter(({ accepted }) => accepted)
    try {
      const held = await messages.touch(runs.map(({ claim }) => claim.message))
      this.#renewedMs = nowMs
      for (const { claim, stop } of runs) if (!held.has(claim.job.id)) stop.abort('superseded' satisfies StopReason)
      if (database.kind === 'postgres') await this.#takeBackLapsed()
    } catch (error) {
      log.error({ err: error }, 'leases could not be renewed')
    }
  }

  /** Jobs whose lease has lapsed are queued again, as their messages are already. */
  async #takeBackLapsed(): Promise<void> {
    const { database, messages } = this.#context
    const running = await database.db.select().from(jobs).where(eq(jobs.state, 'running'))
    for (const job of running)
      if (!this.#running.has(job.id) && (await messages.stateOf(job.queue, job.id)) === 'waiting')
        await takeBackJob(this.#context, job)
  }

  #stopAll(reason: StopReason): void {
    for (const { stop } of this.#running.values()) stop.abort(reason)
  }

  /** Give back at once what runs, and take nothing more. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.drain(0)
    clearInterval(this.#heart)
    this.#ear[Symbol.dispose]()
    await this.#renewing
  }
}
