// Commands that are ended in the middle of everything: all processes go at once, and nothing is left of what they began.
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { family, leftovers, makePlace, removePlace, sepia, startSepia } from '../support/sepia-command.ts'
import type { Place, Started } from '../support/sepia-command.ts'
import { copyLargeModel } from '../support/large-model.ts'
import { tinyModels } from '../support/tiny-b-single-file.ts'
import { isRunning, timeUntil } from '../worker/fixture-task.ts'

/** For what may be kept from test to test: the compiled little models. */
let cache: string
let place: Place
let running: Started | undefined
beforeAll(() => {
  cache = mkdtempSync(join(tmpdir(), 'sepia-test-cache-'))
})
beforeEach(() => {
  place = makePlace(cache)
  return () => {
    running?.child.kill('SIGKILL')
    removePlace(place)
  }
})
afterAll(() => rmSync(cache, { recursive: true }))

const order = (model: string, ...more: readonly string[]): string[] => {
  const size = ['--width', '64', '--height', '64', '--steps', '2']
  return ['generate', 'a red apple', '-m', model, '--seed', '1', ...size, '-o', 'a.png', '--verbose', ...more]
}

/** Start the command and wait until it says that it is at `phase`. */
async function startUntil(phase: string, argv: readonly string[]): Promise<Started & { readonly pids: number[] }> {
  const started = startSepia(place, argv)
  running = started
  await timeUntil(() => started.stderr().includes(phase), 60_000)
  return { ...started, pids: family(started.child.pid!) }
}

/** The last phase that a command told of, and what it said at its end. */
function lastLines(stderr: string): { readonly phase: string | undefined; readonly error: string | undefined } {
  const lines = stderr.trimEnd().split('\n')
  return {
    phase: lines.findLast((line) => /^(reading|preparing|loading|decoding|picture) /.test(line)),
    error: lines.find((line) => line.startsWith('sepia: ')),
  }
}

type Moment = { readonly phase: string; readonly after?: string; readonly argv: () => Promise<string[]> }
const moments: readonly Moment[] = [
  { phase: 'reading UNet', argv: async () => order(await copyLargeModel('F32')) },
  { phase: 'preparing UNet', argv: async () => order(await copyLargeModel('F16')) },
  { phase: 'loading UNet', argv: async () => order(await copyLargeModel('F32')) },
  {
    phase: 'decoding picture',
    after: 'loading VAE\n',
    argv: async () => ['generate', 'x', '--steps', '1', '-o', 'a.png', '--verbose'],
  },
]

describe('Ctrl-C', () => {
  it.each(moments)(
    'while $phase ends everything within a second and leaves nothing',
    async ({ phase, after = '', argv }) => {
      const { child, ended, pids } = await startUntil(after + phase, await argv())
      expect(pids).toHaveLength(2)
      const startMs = performance.now()
      process.kill(-child.pid!, 'SIGINT')
      const { code, stdout, stderr } = await ended
      expect(performance.now() - startMs).toBeLessThan(1000)
      expect({ code, stdout }).toEqual({ code: 130, stdout: '' })
      expect(lastLines(stderr)).toEqual({ phase, error: 'sepia: cancelled' })
      await timeUntil(() => !pids.some(isRunning), 1000)
      expect(readdirSync(place.folder)).toEqual([])
      expect(leftovers(place, child.pid)).toEqual([])
    },
  )

  it.each([0, 50, 100, 200, 300])('%i ms after the start leaves nothing either', async (ms) => {
    const { child, ended } = startSepia(place, order(join(tinyModels, 'tiny-b')))
    await sleep(ms)
    process.kill(-child.pid!, 'SIGINT')
    // Before its first line ran, the command ends as every program does.
    expect([130, null]).toContain((await ended).code)
    expect(readdirSync(place.folder)).toEqual([])
    await timeUntil(() => leftovers(place, child.pid).length === 0, 1000)
  })
})

describe('a killed engine', () => {
  it('in the middle of preparing is one clear line, and gives back its lock', async () => {
    const { child, ended, pids } = await startUntil('preparing UNet', order(await copyLargeModel('F16')))
    process.kill(pids[1], 'SIGKILL')
    const { code, stderr } = await ended
    expect(code).toBe(1)
    expect(lastLines(stderr)).toEqual({
      phase: 'preparing UNet',
      error: 'sepia: the engine process was killed from outside (SIGKILL), most likely because memory ran out',
    })
    expect(readdirSync(place.folder)).toEqual([])
    expect(leftovers(place, child.pid)).toEqual([])
  })

  it('is an error object with --json', async () => {
    const { ended, pids } = await startUntil('loading UNet', order(await copyLargeModel('F32'), '--json'))
    process.kill(pids[1], 'SIGSEGV')
    const { code, stdout } = await ended
    expect(code).toBe(1)
    expect(JSON.parse(stdout)).toEqual({
      error: {
        code: 'engine_crashed',
        message: expect.stringMatching(/^the engine process ended by signal SIGSEGV/) as string,
      },
    })
    expect(leftovers(place)).toEqual([])
  })
})

describe('a killed command', () => {
  it('takes its engine with it, which cleans up, and the next one waits for nothing', async () => {
    const model = await copyLargeModel('F16')
    const { child, ended, pids } = await startUntil('preparing UNet', order(model))
    process.kill(child.pid!, 'SIGKILL')
    await ended
    await timeUntil(() => !pids.some(isRunning), 1000)
    expect(readdirSync(place.folder)).toEqual([])
    expect(leftovers(place, child.pid)).toEqual([])
    const startMs = performance.now()
    const next = await startUntil('preparing UNet', order(model))
    // A lock that nobody had given back would be waited for five seconds.
    expect(performance.now() - startMs).toBeLessThan(4500)
    process.kill(-next.child.pid!, 'SIGTERM')
    expect((await next.ended).code).toBe(143)
    expect(leftovers(place, next.child.pid)).toEqual([])
    expect(await sepia(place, ['inspect', join(tinyModels, 'tiny-b')])).toMatchObject({ code: 0 })
  })
})
