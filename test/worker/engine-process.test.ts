import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { EngineProcess, type StartOptions, type TaskHooks } from '#worker/engine-process.ts'
import type { GenerateResult, Progress } from '#worker/protocol.ts'
import { engineSettings, fixtureEntry, isRunning, taskFor, timeUntil } from './fixture-task.ts'

let cacheDir: string
const files = { checkpoint: '', refiner: null, pictures: {}, assets: {} }

beforeEach(() => {
  cacheDir = mkdtempSync(path.join(tmpdir(), 'sepia-test-'))
})
afterEach(() => rmSync(cacheDir, { recursive: true }))

const start = (options: StartOptions = {}) =>
  EngineProcess.start(engineSettings(cacheDir), { entry: fixtureEntry, ...options })
const scratchFolders = () => readdirSync(path.join(cacheDir, 'scratch'))

/** Run a task in a process of its own. */
async function attempt(behaviour: string, hooks: TaskHooks = {}): Promise<GenerateResult> {
  await using engine = await start()
  return await engine.generate(taskFor(behaviour), files, hooks)
}

describe('a task', () => {
  it('sends progress and pictures in order, then its result', async () => {
    await using engine = await start()
    const phases: string[] = []
    const pictures: unknown[] = []
    const result = await engine.generate(taskFor('pictures', [7, 8]), files, {
      onProgress: ({ phase }) => phases.push(phase),
      onImage: (index, seed, bytes) => void pictures.push([index, seed, [...bytes]]),
    })
    expect(phases).toEqual(['encode', 'denoise', 'denoise'])
    expect(pictures).toEqual([
      [0, 7, [1, 1, 1]],
      [1, 8, [2, 2, 2]],
    ])
    expect(result.timings.stepMs).toEqual([1, 1])
  })

  it('carries a picture of 16 MiB unchanged', async () => {
    let received = new Uint8Array()
    await attempt(`pictures ${2 ** 24}`, { onImage: (_index, _seed, bytes) => void (received = new Uint8Array(bytes)) })
    expect(received.length).toBe(2 ** 24)
    expect(received.every((byte) => byte === 1)).toBe(true)
  })

  it('waits until its pictures are stored', async () => {
    let stored = 0
    const onImage = async (): Promise<void> => {
      await new Promise((resolve) => setTimeout(resolve, 50))
      stored++
    }
    await using engine = await start()
    await engine.generate(taskFor('pictures', [1, 2, 3]), files, { onImage })
    expect(stored).toBe(3)
  })

  it('ends with the error of a picture that cannot be stored', async () => {
    const onImage = (): void => {
      throw new Error('no room')
    }
    await expect(attempt('pictures', { onImage })).rejects.toThrow('no room')
  })

  it('rejects with the typed error of the engine, whose process lives on', async () => {
    await using engine = await start()
    await expect(engine.generate(taskFor('refuse'), files)).rejects.toMatchObject({
      code: 'bad_size',
      message: 'width must be a multiple of 8, got 1020',
    })
    await expect(engine.inspect('x.safetensors')).rejects.toMatchObject({ code: 'bad_file' })
    await engine.generate(taskFor('pictures'), files)
    expect((await engine.probe()).providers).toEqual([{ device: 'cpu', loads: true, reason: null }])
  })

  it.each([
    ['oops', 'internal', /^undefined is not a picture$/],
    ['function', 'internal', /could not be cloned/],
    ['allocation', 'out_of_memory', /allocation failed/],
  ])('rejects with one line for what the engine did not foresee: %s', async (behaviour, code, message) => {
    await expect(attempt(behaviour)).rejects.toMatchObject({ code, message: expect.stringMatching(message) as string })
  })

  it('is refused while another one runs', async () => {
    await using engine = await start()
    const first = engine.generate(taskFor('pictures'), files)
    await expect(engine.generate(taskFor('pictures'), files)).rejects.toMatchObject({ code: 'engine_busy' })
    await expect(engine.inspect('x')).rejects.toMatchObject({ code: 'engine_busy' })
    await expect(first).resolves.toMatchObject({ warnings: [] })
  })

  it('keeps what a library prints away from our standard output', async () => {
    let printed = ''
    await using engine = await start({ onOutput: (text) => void (printed += text) })
    await engine.generate(taskFor('stdout'), files)
    await timeUntil(() => printed !== '', 1000)
    expect(printed).toBe('a native library says hello\n')
  })
})

describe('a crash', () => {
  it.each([
    ['signal SIGSEGV', /^the engine process ended by signal SIGSEGV/],
    ['signal SIGTERM', /^the engine process ended by signal SIGTERM/],
    ['signal SIGKILL', /killed from outside \(SIGKILL\), most likely because memory ran out/],
    ['abort', /^the engine process ended by signal SIGABRT/],
    ['words', /exit code 3; its last words: the tensor was \/ not to be found$/],
    ['chatter', /exit code 3; its last words: .{0,400}the end$/],
    ['uncaught', /exit code 70; its last words: Error: thrown outside the task$/],
    ['rejection', /exit code 70; its last words: Error: rejected outside the task$/],
    ['disconnect', /^the engine process ended with exit code 70|SIGKILL/],
  ])('is a typed error with the last words: %s', async (behaviour, message) => {
    const error = await attempt(behaviour).then(
      () => expect.fail('no crash'),
      (reason: unknown) => reason,
    )
    expect(error).toMatchObject({ code: 'engine_crashed', message: expect.stringMatching(message) as string })
    expect((error as Error).message).not.toContain('\n')
    expect(scratchFolders()).toEqual([])
  })

  it('is told by later tasks too', async () => {
    await using engine = await start()
    await expect(engine.generate(taskFor('words'), files)).rejects.toMatchObject({ code: 'engine_crashed' })
    await expect(engine.generate(taskFor('pictures'), files)).rejects.toThrow('exit code 3')
  })

  it('at the start rejects the start', async () => {
    const entry = new URL(`file://${cacheDir}/broken.ts`)
    writeFileSync(entry, 'import "./no-such-library.node"')
    await expect(start({ entry })).rejects.toMatchObject({
      code: 'engine_crashed',
      message: expect.stringMatching(/last words: Error \[ERR_MODULE_NOT_FOUND\]: .*no-such-library/) as string,
    })
    expect(scratchFolders()).toEqual([])
  })
})

describe('a cancellation', () => {
  it.each(['busy', 'native', 'scratch'])('ends a blocked process within a second: %s', async (behaviour) => {
    await using engine = await start()
    const cancel = new AbortController()
    const phases: Progress['phase'][] = []
    const task = engine.generate(taskFor(behaviour), files, {
      signal: cancel.signal,
      onProgress: ({ phase }) => phases.push(phase),
    })
    task.catch(() => {})
    await timeUntil(() => phases.includes('load'), 5000)
    const startMs = performance.now()
    cancel.abort()
    await expect(task).rejects.toMatchObject({ code: 'cancelled' })
    expect(performance.now() - startMs).toBeLessThan(1000)
    expect(isRunning(engine.pid!)).toBe(false)
    expect(scratchFolders()).toEqual([])
  })

  it.each([
    { prompt: 'stoppable', next: { warnings: [] } },
    { prompt: 'stoppable never', next: { code: 'engine_crashed' } },
  ])('keeps a process that stops by itself, and no other: $prompt', async ({ prompt, next }) => {
    await using engine = await start()
    const cancel = new AbortController()
    const loads = Promise.withResolvers<void>()
    const onProgress = ({ phase }: Progress): void => void (phase === 'load' && loads.resolve())
    const task = engine.generate(taskFor(prompt), files, { signal: cancel.signal, onProgress })
    task.catch(() => {})
    await loads.promise
    cancel.abort()
    await expect(task).rejects.toMatchObject({ code: 'cancelled' })
    expect(await engine.generate(taskFor('pictures'), files).catch((error: unknown) => error)).toMatchObject(next)
  })

  it('before the task runs is a cancellation as well', async () => {
    await expect(start({ signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'cancelled' })
    await expect(attempt('pictures', { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'cancelled' })
  })

  it('after the task changes nothing', async () => {
    await using engine = await start()
    const cancel = new AbortController()
    await engine.generate(taskFor('pictures'), files, { signal: cancel.signal })
    cancel.abort()
    await expect(engine.generate(taskFor('pictures'), files)).resolves.toMatchObject({ warnings: [] })
  })
})

describe('the process', () => {
  it('closes in peace when it is idle, and its scratch folder goes', async () => {
    let printed = ''
    const engine = await start({ onOutput: (text) => void (printed += text) })
    expect(scratchFolders()).toHaveLength(1)
    await engine[Symbol.asyncDispose]()
    expect(printed).toBe('closed in peace\n')
    expect(isRunning(engine.pid!)).toBe(false)
    expect(scratchFolders()).toEqual([])
    await expect(engine.probe()).rejects.toMatchObject({ code: 'engine_crashed' })
  })

  it('is killed when it is closed during a task', async () => {
    const engine = await start()
    const [outcome] = await Promise.allSettled([engine.generate(taskFor('busy'), files), engine[Symbol.asyncDispose]()])
    expect(outcome).toMatchObject({ status: 'rejected', reason: { code: 'cancelled' } })
    expect(isRunning(engine.pid!)).toBe(false)
  })

  it('leaves the interrupt of the terminal to its parent', async () => {
    await using engine = await start()
    process.kill(engine.pid!, 'SIGINT')
    process.kill(engine.pid!, 'SIGHUP')
    await expect(engine.generate(taskFor('pictures'), files)).resolves.toMatchObject({ warnings: [] })
  })

  it.each(['busy', 'native'])('is gone two seconds after its parent was killed: %s', async (behaviour) => {
    const parent = spawn(
      process.execPath,
      [fileURLToPath(new URL('./fixture-parent.ts', import.meta.url)), cacheDir, behaviour],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    )
    const [text] = (await once(parent.stdout, 'data')) as [Buffer]
    const pid = Number(text.toString())
    expect(isRunning(pid)).toBe(true)
    parent.kill('SIGKILL')
    expect(await timeUntil(() => !isRunning(pid), 2000)).toBeLessThan(2000)
  })
})
