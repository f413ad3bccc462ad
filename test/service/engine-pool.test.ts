import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { privateMemory } from '#worker/private-memory.ts'
import { createLogger } from '../../src/logger.ts'
import { inspectDeployment, queueFor, queuesOf } from '../../src/service/engines/deployment.ts'
import { EnginePool, type RestartReason } from '../../src/service/engines/engine-pool.ts'
import { fixtureEngine, tinyA } from '../support/job-office.ts'
import { engineSettings, isRunning, taskFor } from '../worker/fixture-task.ts'

const files = { checkpoint: '', refiner: null, pictures: {}, assets: {} }
let cacheDir: string
/** Called whenever a process becomes free. */
let onFree: () => void
let restarts: RestartReason[]

beforeEach(() => {
  cacheDir = mkdtempSync(path.join(tmpdir(), 'sepia-test-'))
  restarts = []
  onFree = () => {}
})
afterEach(() => rmSync(cacheDir, { recursive: true }))

const start = (size: number, overrides: { memoryLimitBytes?: number; entry?: URL } = {}) =>
  EnginePool.start({
    size,
    settings: engineSettings(cacheDir),
    memoryLimitBytes: null,
    log: createLogger('silent'),
    onFree: () => onFree(),
    onRestart: (reason) => void restarts.push(reason),
    entry: fixtureEngine,
    ...overrides,
  })
const nextFree = () => new Promise<void>((resolve) => (onFree = resolve))

describe('the pool', () => {
  it('lends each process once, and remembers what it has loaded', async () => {
    await using pool = await start(2)
    expect([pool.free, pool.pids.length]).toEqual([2, 2])
    const [first, second] = [pool.lease()!, pool.lease()!]
    expect([pool.free, pool.lease(), first.loaded]).toEqual([0, null, null])
    await first.generate('queue', taskFor('pictures'), files, {})
    const free = nextFree()
    await first[Symbol.asyncDispose]()
    await free
    expect(pool.free).toBe(1)
    await using again = pool.lease()!
    expect(again.loaded).toBe('queue')
    await second[Symbol.asyncDispose]()
    expect(restarts).toEqual([])
  })

  it('gives back what was not used without a word', async () => {
    await using pool = await start(1)
    let told = 0
    onFree = () => told++
    await pool.lease()![Symbol.asyncDispose]()
    expect([pool.free, told]).toEqual([1, 0])
  })

  it.each([
    ['crash', 'crashed'],
    ['wait', 'killed'],
  ])('replaces a process that died over a task: %s', async (behaviour, reason) => {
    await using pool = await start(1)
    const [pid] = pool.pids
    const cancel = new AbortController()
    const lease = pool.lease()!
    const free = nextFree()
    const run = lease.generate('queue', taskFor(`${behaviour} ${cacheDir}/never`), files, {
      signal: cancel.signal,
      onProgress: () => cancel.abort(),
    })
    await expect(run).rejects.toMatchObject({ code: reason === 'crashed' ? 'engine_crashed' : 'cancelled' })
    await lease[Symbol.asyncDispose]()
    await free
    expect(isRunning(pid)).toBe(false)
    expect(restarts).toEqual([reason])
    await using next = pool.lease()!
    expect(next.loaded).toBeNull()
    await next.generate('queue', taskFor('pictures'), files, {})
    expect(readdirSync(path.join(cacheDir, 'scratch'))).toHaveLength(1)
  })

  it('replaces a process that died while it waited', async () => {
    await using pool = await start(1)
    const free = nextFree()
    process.kill(pool.pids[0], 'SIGKILL')
    await free
    expect(pool.free).toBe(1)
    expect(restarts).toEqual(['crashed'])
  })

  it.runIf(process.platform === 'linux')('replaces a process that holds more than its share', async () => {
    await using pool = await start(1, { memoryLimitBytes: 1 << 20 })
    const [pid] = pool.pids
    expect(privateMemory(pid)).toBeGreaterThan(1 << 20)
    const free = nextFree()
    {
      await using lease = pool.lease()!
      await lease.generate('queue', taskFor('pictures'), files, {})
    }
    await free
    expect(pool.pids).not.toContain(pid)
    expect(restarts).toEqual(['memory'])
  })

  it('does not start where its processes do not', async () => {
    const entry = new URL('no-such-program.ts', fixtureEngine)
    await expect(start(2, { entry })).rejects.toMatchObject({ code: 'engine_crashed' })
  })

  it('ends its processes, and what they run', async () => {
    const pool = await start(2)
    const { pids } = pool
    const run = pool.lease()!.generate('queue', taskFor(`wait ${cacheDir}/never`), files, {})
    await Promise.all([expect(run).rejects.toMatchObject({ code: 'cancelled' }), pool[Symbol.asyncDispose]()])
    expect(pids.map(isRunning)).toEqual([false, false])
    expect(existsSync(path.join(cacheDir, 'scratch')) && readdirSync(path.join(cacheDir, 'scratch'))).toEqual([])
    expect(restarts).toEqual([])
  })
})

describe('a deployment', () => {
  const model = { path: 'base', hash: 'a'.repeat(64) }
  const refiner = { path: 'refiner', hash: 'b'.repeat(64) }

  it('has a queue for each set of models, which holds its precision', () => {
    const deployment = { backend: 'onnxruntime', precision: 'fp16', model, refiner } as const
    expect([...queuesOf(deployment)].slice(0, 2)).toEqual([
      [`generate/${'a'.repeat(16)}/fp16`, { checkpoint: 'base', refiner: null }],
      [`generate/${'a'.repeat(16)}-${'b'.repeat(16)}/fp16`, { checkpoint: 'base', refiner: 'refiner' }],
    ])
    expect(queueFor(deployment, { refiner: null, checkpoint: null })).toBe(`generate/${'a'.repeat(16)}/fp16`)
    expect(queueFor(deployment, { checkpoint: null, refiner: { denoisingEnd: 0.8 } })).toContain('-bbbb')
    expect([...queuesOf({ ...deployment, refiner: null }).keys()]).toHaveLength(1 + 4)
  })

  it('has a few queues for all checkpoints of the library, always the same for one of them', () => {
    const deployment = { backend: 'onnxruntime', precision: 'fp16', model, refiner: null } as const
    const queueOf = (checkpoint: string) => queueFor(deployment, { checkpoint, refiner: null })
    const checkpoints = Array.from({ length: 64 }, (_, index) =>
      `${index * 12_345_678}`.padStart(64, '0').split('').toReversed().join(''),
    )
    const used = new Set(checkpoints.map(queueOf))
    expect(used.size).toBe(4)
    expect([...queuesOf(deployment).keys()]).toEqual(expect.arrayContaining([...used]))
    expect(queueOf(checkpoints[0])).toBe(queueOf(checkpoints[0]))
  })

  it('knows its model by its content', async () => {
    const settings = engineSettings(cacheDir)
    const { model } = await inspectDeployment(settings, { model: tinyA, refiner: null })
    expect(model).toEqual({ path: tinyA, hash: expect.stringMatching(/^[0-9a-f]{64}$/) as string })
    await expect(inspectDeployment(settings, { model: tinyA, refiner: tinyA })).rejects.toMatchObject({
      code: 'wrong_architecture',
    })
    const cuda = { ...settings, device: 'cuda' } as const
    await expect(inspectDeployment(cuda, { model: tinyA, refiner: null })).rejects.toMatchObject({
      code: 'device_unavailable',
      message: expect.stringMatching(/^device cuda: ./) as string,
    })
    const entry = fixtureEngine
    await expect(inspectDeployment(settings, { model: 'x', refiner: null }, { entry })).rejects.toMatchObject({
      code: 'bad_file',
    })
  })
})
