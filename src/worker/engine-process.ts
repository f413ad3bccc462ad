// The parent's half of the protocol. One engine process computes one task at a time. A task is cancelled by a message
// where the engine can stop what it computes, and keeps what it has loaded; else, and when that takes too long, by killing
// its process, which is all that reaches some libraries.
import { fork, type ChildProcess } from 'node:child_process'
import type { AssetReport } from '#engine/weights/asset-report.ts'
import { AppError } from '../errors.ts'
import type {
  AssetInspection,
  EngineChoice,
  EngineEvent,
  EngineMessage,
  EngineRequest,
  EngineResults,
  EngineSettings,
  GenerateResult,
  GenerateTask,
  InspectResult,
  ProbeResult,
  QuantizeResult,
  Progress,
  TaskFiles,
} from './protocol.ts'
import { describeEnding, endingError, type Ending } from './process-ending.ts'
import { createScratch, removeScratch } from './scratch-folder.ts'

/** What a caller may follow while a task runs. */
export type TaskHooks = {
  onProgress?(progress: Progress): void
  /** The encoded picture. A rejection ends the task, and its process, with that error. */
  onImage?(index: number, seed: number, bytes: Uint8Array): Promise<void> | void
  /** Aborting stops the task, by killing the process where nothing else does; it rejects with `cancelled`. */
  readonly signal?: AbortSignal | undefined
}

/** Options of {@link EngineProcess.start}. */
export type StartOptions = {
  readonly signal?: AbortSignal | undefined
  /** Another child program than worker/main.ts. */
  readonly entry?: URL | undefined
  /** Everything that the process writes to its standard streams, as it comes. */
  onOutput?(text: string): void
}

type Task = {
  readonly id: number
  readonly hooks: TaskHooks
  /** Pictures that the caller is still storing. */
  stored: Promise<void>
  /** Whether the engine has said that it can stop. */
  isInterruptible: boolean
  resolve(result: unknown): void
  reject(error: unknown): void
}

type Unnumbered<Request> = Request extends EngineRequest ? Omit<Request, 'id'> : never

/** The first module of a process: what the others are compiled to is kept, for stripping their types takes longer than most tasks. */
const keepCompiled = 'data:text/javascript,import { enableCompileCache } from "node:module"; enableCompileCache()'
/** Characters of the child's output that are kept for the message about a crash. */
const keptOutput = 4096
/** How long a killed process may take to vanish before its task is rejected all the same, in milliseconds. */
const killGraceMs = 600
/** How long a task may take to stop that was asked to, in milliseconds. */
const stopGraceMs = 60
/** How long a process may take to close in peace, in milliseconds. */
const closeGraceMs = 800

/** The parent's handle of one engine process; owns the process and its scratch folder. */
export class EngineProcess implements AsyncDisposable {
  readonly #child: ChildProcess
  readonly #scratchDir: string
  readonly #childEnds = Promise.withResolvers<Ending>()
  /** Settles when the process is gone and its scratch folder with it. */
  readonly #ended: Promise<void>
  #ending: Ending | null = null
  /** Why we killed the process ourselves. */
  #killedFor: unknown = null
  #task: Task | null = null
  /** Set when the task was asked to stop: kills the process that does not. */
  #stopTimer: NodeJS.Timeout | null = null
  #lastId = 0
  #output = ''

  /**
   * Start an engine process and its scratch folder and wait until it answers. Rejects with `cache_unwritable` or
   * `disk_full` when there can be no scratch folder, `engine_crashed` when the process dies, `cancelled` on abort.
   */
  static async start(settings: Omit<EngineSettings, 'scratchDir'>, options: StartOptions = {}): Promise<EngineProcess> {
    if (options.signal?.aborted) throw new AppError('cancelled', 'cancelled')
    const scratchDir = await createScratch(settings.cacheDir)
    const engine = new EngineProcess(options, scratchDir)
    try {
      await engine.#request({ type: 'start', settings: { ...settings, scratchDir } }, { signal: options.signal })
    } catch (error) {
      await engine[Symbol.asyncDispose]()
      throw error
    }
    return engine
  }

  private constructor(options: StartOptions, scratchDir: string) {
    this.#scratchDir = scratchDir
    this.#child = fork(options.entry ?? new URL('./main.ts', import.meta.url), [], {
      serialization: 'advanced',
      execArgv: ['--import', keepCompiled],
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    })
    for (const stream of [this.#child.stdout!, this.#child.stderr!]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        this.#output = (this.#output + text).slice(-keptOutput)
        options.onOutput?.(text)
      })
    }
    this.#child.on('message', (event) => this.#receive(event as EngineEvent))
    this.#watchChild()
    this.#ended = this.#cleanUp()
    // Whoever disposes of this engine hears of a scratch folder that could not be removed.
    this.#ended.catch(() => {})
  }

  /** The operating system's number of the process. */
  get pid(): number | undefined {
    return this.#child.pid
  }

  /** The folder for half-written files, which vanishes with the process. */
  get scratchDir(): string {
    return this.#scratchDir
  }

  /** False when the process has ended, or is about to because it was killed, even if its last task had come to its end. */
  get running(): boolean {
    return this.#ending === null && !this.killed
  }

  /** Whether the process was killed by us, as a cancellation does. */
  get killed(): boolean {
    return this.#killedFor !== null
  }

  /** Resolves when the process has ended, however that was. */
  get ended(): Promise<void> {
    return this.#childEnds.promise.then(() => undefined)
  }

  /** Make the pictures of `task`; they arrive through `hooks.onImage` in order. Rejects with the task's AppError. */
  generate(task: GenerateTask, files: TaskFiles, hooks: TaskHooks = {}): Promise<GenerateResult> {
    return this.#request({ type: 'generate', task, files }, hooks)
  }

  /** Describe a model file or folder and hash its weights. */
  inspect(path: string, hooks: Omit<TaskHooks, 'onImage'> = {}): Promise<InspectResult> {
    return this.#request({ type: 'inspect', path }, hooks)
  }

  /**
   * Describe an upload and convert it to safetensors where it is none. Rejects with `bad_file`, `wrong_architecture`,
   * `missing_tensors` or `unsupported`, and a reason for its owner, when it cannot be used.
   */
  inspectAsset(asset: AssetInspection, hooks: Pick<TaskHooks, 'signal'> = {}): Promise<AssetReport> {
    return this.#request({ type: 'inspectAsset', asset }, hooks)
  }

  /** What `auto` is here. Rejects with `device_unavailable` when what the settings ask for cannot be had. */
  choose(hooks: Pick<TaskHooks, 'signal'> = {}): Promise<EngineChoice> {
    return this.#request({ type: 'choose' }, hooks)
  }

  /** Make a model ready for int8 and tell what that does to it. */
  quantize(path: string, hooks: Omit<TaskHooks, 'onImage'> = {}): Promise<QuantizeResult> {
    return this.#request({ type: 'quantize', path }, hooks)
  }

  /** Which execution providers load in this process. */
  probe(hooks: Pick<TaskHooks, 'signal'> = {}): Promise<ProbeResult> {
    return this.#request({ type: 'probe' }, hooks)
  }

  /** End the process: in peace when it is idle, else by a kill that rejects its task with `cancelled`. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#task) this.#kill(new AppError('cancelled', 'cancelled: the engine process was closed'))
    else if (!this.#ending) this.#send({ type: 'close', id: ++this.#lastId })
    const timer = setTimeout(() => this.#kill(null), closeGraceMs)
    try {
      await this.#ended
    } finally {
      clearTimeout(timer)
    }
  }

  async #request<Type extends keyof EngineResults>(
    request: Unnumbered<EngineRequest> & { readonly type: Type },
    hooks: TaskHooks,
  ): Promise<EngineResults[Type]> {
    if (this.#task) throw new AppError('engine_busy', 'the engine process already has a task; it takes one at a time')
    if (this.#ending) {
      const why = this.#killedFor === null ? describeEnding(this.#ending, this.#output) : 'the engine process was ended'
      throw new AppError('engine_crashed', why)
    }
    const id = ++this.#lastId
    const onAbort = () => this.#cancel()
    try {
      return await new Promise<EngineResults[Type]>((resolve, reject) => {
        this.#task = {
          id,
          hooks,
          stored: Promise.resolve(),
          isInterruptible: false,
          resolve: (result) => resolve(result as never),
          reject,
        }
        if (hooks.signal?.aborted) return onAbort()
        hooks.signal?.addEventListener('abort', onAbort, { once: true })
        return this.#send({ ...request, id })
      })
    } finally {
      hooks.signal?.removeEventListener('abort', onAbort)
      if (this.#stopTimer) clearTimeout(this.#stopTimer)
      this.#stopTimer = null
      this.#task = null
    }
  }

  /** Ask the task to stop, where that can help; kill the process where it cannot, or does not soon enough. */
  #cancel(): void {
    const reason = new AppError('cancelled', 'cancelled')
    if (!this.#task?.isInterruptible) return this.#kill(reason)
    this.#stopTimer = setTimeout(() => this.#kill(reason), stopGraceMs)
    this.#send({ type: 'cancel', id: this.#task.id })
  }

  #send(request: EngineMessage): void {
    this.#child.send(request, (error) => {
      // A channel that fails belongs to a process that is ending or must: its end is what the task hears of.
      if (error) this.#child.kill('SIGKILL')
    })
  }

  #receive(event: EngineEvent): void {
    const task = this.#task
    // The task of a late event was rejected already, by an abort or by a failure to store one of its pictures.
    if (!task || task.id !== event.id) return
    // What it had done before it heard that nobody waits any more.
    if (this.#stopTimer) {
      if (event.type === 'result' || event.type === 'error') task.reject(new AppError('cancelled', 'cancelled'))
      return
    }
    switch (event.type) {
      case 'progress':
        task.hooks.onProgress?.(event.progress)
        break
      case 'interruptible':
        task.isInterruptible = true
        break
      case 'image':
        task.stored = task.stored.then(() => task.hooks.onImage?.(event.index, event.seed, event.bytes))
        task.stored.catch((error: unknown) => this.#kill(error))
        break
      case 'result':
        task.stored.then(
          () => task.resolve(event.result),
          (error: unknown) => task.reject(error),
        )
        break
      case 'error':
        task.reject(new AppError(event.error.code, event.error.message, { field: event.error.field }))
        break
      default:
        throw new AppError('internal', `engine process: unknown event ${JSON.stringify(event satisfies never)}`)
    }
  }

  /** Kill the process; its task is rejected with `reason` once it is gone. */
  #kill(reason: unknown): void {
    if (this.#ending) return
    this.#killedFor ??= reason
    this.#child.kill('SIGKILL')
    // The system needs a while to take back many gigabytes, longer than a user wants to wait: from here on the
    // process cannot run any more, so nothing has to be waited for.
    setTimeout(() => {
      this.#childEnds.resolve({ code: null, signal: 'SIGKILL' })
      this.#child.unref()
      this.#child.stdout?.destroy()
      this.#child.stderr?.destroy()
      if (this.#child.connected) this.#child.disconnect()
    }, killGraceMs).unref()
  }

  #watchChild(): void {
    const child = this.#child
    child.once('close', (code, signal) => this.#childEnds.resolve({ code, signal }))
    child.once('exit', (code, signal) => {
      // `close` waits for the standard streams, which a process started by the child may keep open.
      setTimeout(() => this.#childEnds.resolve({ code, signal }), killGraceMs).unref()
    })
    child.once('disconnect', () => {
      // Without its channel a process is of no use; one that is ending will have ended by then.
      setTimeout(() => child.kill('SIGKILL'), closeGraceMs).unref()
    })
    child.on('error', (error) => {
      if (child.pid === undefined) this.#childEnds.resolve({ code: null, signal: null, startError: error })
      else this.#output += `\n${error.message}`
    })
  }

  /** Wait for the child's end, remove its scratch folder and reject the task that it leaves behind. */
  async #cleanUp(): Promise<void> {
    this.#ending = await this.#childEnds.promise
    try {
      await removeScratch(this.#scratchDir)
    } finally {
      this.#task?.reject(this.#killedFor ?? endingError(this.#ending, this.#output))
    }
  }
}
