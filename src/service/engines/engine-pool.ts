// Engine processes kept warm for jobs. A process that dies is replaced, whether it had a job or not; one that holds more
// memory than its share after a job is replaced too.
import { setTimeout as delay } from 'node:timers/promises'
import { EngineProcess, type TaskHooks } from '#worker/engine-process.ts'
import type { EngineSettings, GenerateResult, GenerateTask, TaskFiles } from '#worker/protocol.ts'
import { privateMemory } from '#worker/private-memory.ts'
import type { Logger } from '../../logger.ts'

/** What a pool is made of. */
export type EnginePoolOptions = {
  /** How many processes. */
  readonly size: number
  readonly settings: Omit<EngineSettings, 'scratchDir'>
  /** Private memory of all processes together, in bytes; null is no limit. */
  readonly memoryLimitBytes: number | null
  readonly log: Logger
  /** A process became free. */
  onFree(): void
  /** A process was replaced. */
  onRestart(reason: RestartReason): void
  /** Another engine program than worker/main.ts. */
  readonly entry?: URL | undefined
}

/** Why a process was replaced. */
export type RestartReason = 'crashed' | 'killed' | 'memory'

/** One place for a process; empty while its process is started. */
type Slot = {
  engine: EngineProcess | null
  busy: boolean
  /** The queue of its last job, whose models it has loaded. */
  loaded: string | null
}

/** An engine process lent for one job; disposal gives it back, and one that was not used without a word. */
export type EngineLease = AsyncDisposable & {
  /** The queue whose models are loaded; null in a new process. */
  readonly loaded: string | null
  /** A folder for files of the job, which vanishes with the process at the latest. */
  readonly scratchDir: string
  /** Run the job's task, whose models are those of `queue`. Rejects with the task's AppError. */
  generate(queue: string, task: GenerateTask, files: TaskFiles, hooks: TaskHooks): Promise<GenerateResult>
}

const firstRetryMs = 500
const longestRetryMs = 30_000

/** Owns the processes. */
export class EnginePool implements AsyncDisposable {
  readonly #options: EnginePoolOptions
  readonly #slots: readonly Slot[]
  readonly #closing = new AbortController()
  readonly #work = new Set<Promise<void>>()

  /** Start all processes and wait for them. Rejects with what starting the first of them throws. */
  static async start(options: EnginePoolOptions): Promise<EnginePool> {
    const pool = new EnginePool(options)
    try {
      await Promise.all(pool.#slots.map((slot) => pool.#launch(slot)))
    } catch (error) {
      await pool[Symbol.asyncDispose]()
      throw error
    }
    return pool
  }

  private constructor(options: EnginePoolOptions) {
    this.#options = options
    this.#slots = Array.from({ length: options.size }, () => ({ engine: null, busy: false, loaded: null }))
  }

  /** How many processes wait for a job. */
  get free(): number {
    return this.#slots.filter(isFree).length
  }

  /** Processes there are, dead and starting ones not counted. */
  get pids(): readonly number[] {
    return this.#slots.flatMap(({ engine }) => engine?.pid ?? [])
  }

  /** Borrow a process that waits for a job, one that has the models of `queue` loaded if there is; null when there is none. */
  lease(queue?: string): EngineLease | null {
    const free = this.#slots.filter(isFree)
    const slot = free.find(({ loaded }) => queue !== undefined && loaded === queue) ?? free.at(0)
    if (!slot?.engine) return null
    const { engine } = slot
    slot.busy = true
    let used = false
    return {
      loaded: slot.loaded,
      scratchDir: engine.scratchDir,
      generate: (queue, task, files, hooks) => {
        used = true
        slot.loaded = queue
        return engine.generate(task, files, hooks)
      },
      [Symbol.asyncDispose]: () => this.#takeBack(slot, engine, used),
    }
  }

  async #takeBack(slot: Slot, engine: EngineProcess, used: boolean): Promise<void> {
    const tooLarge = used && engine.running && this.#isTooLarge(engine)
    slot.busy = false
    // A process that has died is being replaced.
    if (!engine.running || slot.engine !== engine) return
    if (tooLarge) this.#replace(slot, 'memory')
    else if (used) this.#options.onFree()
  }

  #isTooLarge({ pid }: EngineProcess): boolean {
    const { log, memoryLimitBytes, size } = this.#options
    if (memoryLimitBytes === null || pid === undefined) return false
    const bytes = privateMemory(pid)
    if (bytes === null || bytes <= memoryLimitBytes / size) return false
    log.info({ pid, bytes, memoryLimitBytes, size }, 'engine process holds more memory than its share')
    return true
  }

  async #launch(slot: Slot): Promise<void> {
    const { entry, log, memoryLimitBytes, size } = this.#options
    const signal = this.#closing.signal
    const limit = memoryLimitBytes === null ? {} : { memoryLimitBytes: memoryLimitBytes / size }
    slot.loaded = null
    slot.engine = await EngineProcess.start({ ...this.#options.settings, ...limit }, { entry, signal })
    const { engine } = slot
    log.debug({ pid: engine.pid }, 'engine process started')
    void this.#watch(slot, engine)
  }

  async #watch(slot: Slot, engine: EngineProcess): Promise<void> {
    await engine.ended
    if (slot.engine === engine) this.#replace(slot, engine.killed ? 'killed' : 'crashed')
  }

  #replace(slot: Slot, reason: RestartReason): void {
    const { engine } = slot
    slot.engine = null
    if (this.#closing.signal.aborted) return
    const { log } = this.#options
    this.#options.onRestart(reason)
    log[reason === 'crashed' ? 'warn' : 'info']({ pid: engine?.pid, reason }, 'engine process is replaced')
    const work = this.#relaunch(slot, engine).finally(() => this.#work.delete(work))
    this.#work.add(work)
  }

  /** Start another process in the place of `former`, as often as it takes. */
  async #relaunch(slot: Slot, former: EngineProcess | null): Promise<void> {
    const { signal } = this.#closing
    const { log } = this.#options
    try {
      await former?.[Symbol.asyncDispose]()
    } catch (error) {
      log.error({ err: error }, 'the scratch folder of an engine process cannot be removed')
    }
    let retryMs = firstRetryMs
    while (!signal.aborted) {
      try {
        await this.#launch(slot)
        this.#options.onFree()
        return
      } catch (error) {
        if (signal.aborted) return
        log.error({ err: error, retryMs }, 'engine process does not start')
        await pause(retryMs, signal)
        retryMs = Math.min(2 * retryMs, longestRetryMs)
      }
    }
  }

  /** End all processes; a task that still runs rejects with `cancelled`. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort()
    await Promise.all(this.#work)
    await Promise.all(this.#slots.map(async ({ engine }) => engine?.[Symbol.asyncDispose]()))
  }
}

function isFree({ engine, busy }: Slot): boolean {
  return engine !== null && engine.running && !busy
}

/** Resolves after a while, or when the signal is aborted. */
async function pause(timeMs: number, signal: AbortSignal): Promise<void> {
  const elapsed = delay(timeMs, undefined, { signal })
  await Promise.allSettled([elapsed])
}
