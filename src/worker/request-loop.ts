// The child's half of the protocol: requests in, events out, and the ways in which an engine process ends.
import { Worker } from 'node:worker_threads'
import type { AssetReport } from '#engine/weights/asset-report.ts'
import { AppError, type ErrorDetail } from '../errors.ts'
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
  Progress,
  QuantizeResult,
  TaskFiles,
} from './protocol.ts'
import type { WatchOrder } from './parent-watch.ts'
import { removeScratchAtOnce } from './scratch-folder.ts'

/** What an engine can do; its methods run one at a time. */
export type Engine = AsyncDisposable & {
  generate(task: GenerateTask, files: TaskFiles, hooks: EngineHooks): Promise<GenerateResult>
  inspect(path: string, hooks: Pick<EngineHooks, 'onProgress'>): Promise<InspectResult>
  inspectAsset(asset: AssetInspection): Promise<AssetReport>
  choose(): Promise<EngineChoice>
  quantize(path: string, hooks: Pick<EngineHooks, 'onProgress'>): Promise<QuantizeResult>
  probe(): Promise<ProbeResult>
  /** Stop the task that runs, if it can be stopped; it then rejects with `cancelled`. */
  cancel(): void
}

/** How an engine tells what it does; an image is on its way to the parent when the promise resolves. */
export type EngineHooks = {
  readonly onProgress: (progress: Progress) => void
  readonly onImage: (index: number, seed: number, bytes: Uint8Array) => Promise<void>
  /** The task can be stopped from now on. */
  readonly onInterruptible: () => void
}

/** Exit code of an engine process that met an error outside any request (EX_SOFTWARE of sysexits.h). */
export const fatalExitCode = 70

/** Make this process an engine process: answer the parent's requests until it closes the channel or dies. */
export function serveRequests(open: (settings: EngineSettings) => Engine): void {
  // Ctrl-C reaches every process of the terminal's group; whether this one ends is the parent's decision.
  for (const signal of ['SIGINT', 'SIGHUP'] as const) process.on(signal, () => {})
  process.on('uncaughtException', (error) => {
    process.stderr.write(`${error.stack ?? String(error)}\n`)
    process.exit(fatalExitCode)
  })
  const parentPid = process.ppid
  let scratchDir: string | null = null
  process.on('disconnect', () => process.exit(fatalExitCode))
  process.on('exit', () => {
    // The parent does it too, unless it was killed.
    if (scratchDir !== null) removeScratchAtOnce(scratchDir)
  })

  let engine: Engine | null = null
  process.on('message', (request: EngineMessage) => {
    if (request.type === 'start') {
      ;({ scratchDir } = request.settings)
      const workerData: WatchOrder = { parentPid, scratchDir }
      new Worker(new URL('./parent-watch.ts', import.meta.url), { execArgv: [], workerData }).unref()
      engine = open(request.settings)
    }
    if (!engine) throw new AppError('internal', `engine process: a ${request.type} request came before start`)
    if (request.type === 'cancel') engine.cancel()
    else void answer(engine, request)
  })
}

async function answer(engine: Engine, request: EngineRequest): Promise<void> {
  const { id } = request
  try {
    await send({ type: 'result', id, result: await perform(engine, request) })
  } catch (error) {
    await send({ type: 'error', id, error: describe(error) })
  }
  if (request.type === 'close') process.exit(0)
}

async function perform(engine: Engine, request: EngineRequest): Promise<EngineResults[EngineRequest['type']]> {
  const { id } = request
  const onProgress = (progress: Progress) => void send({ type: 'progress', id, progress })
  switch (request.type) {
    case 'start':
      return null
    case 'generate':
      return engine.generate(request.task, request.files, {
        onProgress,
        onInterruptible: () => void send({ type: 'interruptible', id }),
        onImage: (index, seed, bytes) => send({ type: 'image', id, index, seed, bytes }),
      })
    case 'inspect':
      return engine.inspect(request.path, { onProgress })
    case 'inspectAsset':
      return engine.inspectAsset(request.asset)
    case 'choose':
      return engine.choose()
    case 'quantize':
      return engine.quantize(request.path, { onProgress })
    case 'probe':
      return engine.probe()
    case 'close':
      await engine[Symbol.asyncDispose]()
      return null
    default:
      throw new AppError('internal', `engine process: unknown request ${JSON.stringify(request satisfies never)}`)
  }
}

function describe(error: unknown): ErrorDetail {
  if (error instanceof AppError) return { code: error.code, message: error.message, field: error.field }
  const { message, stack } = error instanceof Error ? error : new Error(String(error))
  process.stderr.write(`${stack ?? message}\n`)
  // V8 and typed arrays report memory that could not be had as a RangeError.
  const code = error instanceof RangeError && /allocation failed/i.test(message) ? 'out_of_memory' : 'internal'
  return { code, message: message.replaceAll(/\s+/g, ' ') }
}

/** Resolves when the event is in the pipe, so that a computation started afterwards cannot hold it back. */
function send(event: EngineEvent): Promise<void> {
  return new Promise((resolve, reject) => {
    process.send!(event, (error: Error | null) => (error ? reject(error) : resolve()))
  })
}
