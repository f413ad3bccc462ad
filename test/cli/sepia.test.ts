// The command as users start it: bin/sepia.js in a process of its own, the shipped model, real signals.
import { spawnSync, type ChildProcess } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import sharp from 'sharp'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { bin, family, leftovers, makePlace, removePlace, startSepia } from '../support/sepia-command.ts'
import type { Outcome, Place, Started } from '../support/sepia-command.ts'
import { isRunning, timeUntil } from '../worker/fixture-task.ts'

let cache: string
let place: Place
let folder: string
let running: ChildProcess | undefined

beforeAll(() => {
  cache = mkdtempSync(path.join(tmpdir(), 'sepia-test-cache-'))
})
beforeEach(() => {
  place = makePlace(cache)
  ;({ folder } = place)
  return () => {
    running?.kill('SIGKILL')
    removePlace(place)
  }
})
afterAll(() => rmSync(cache, { recursive: true }))

/** This Node, and an older one when the machine has it: that one hands over to ours. */
const nodes = [
  process.execPath,
  ...(process.env.PATH ?? '')
    .split(path.delimiter)
    .filter((place) => !place.includes('node_modules'))
    .map((place) => path.join(place, 'node'))
    .filter((node) => /^v(20|22)\./.test(spawnSync(node, ['--version'], { encoding: 'utf8' }).stdout ?? ''))
    .slice(0, 1),
]

function start(argv: readonly string[], node?: string): Started {
  const started = startSepia(place, argv, { node })
  running = started.child
  return started
}

const sepia = (...argv: readonly string[]): Promise<Outcome> => start(argv).ended

/** Start a long picture and wait until the UNet is at work on its second step. */
async function startLong(node?: string): Promise<Started & { readonly pids: readonly number[] }> {
  const started = start(['generate', 'a red apple', '--steps', '200', '--verbose', '-o', 'a.png'], node)
  await timeUntil(() => started.stderr().includes('step 1/200'), 60_000)
  return { ...started, pids: family(started.child.pid!) }
}

describe('a picture of the shipped model', () => {
  it('is a PNG of 1024×1024 that tells how it was made, and comes again with its seed', async () => {
    const order = ['generate', 'a red apple on a light blue background', '--steps', '2', '--seed', '1']
    const first = await sepia(...order, '-o', 'a.png', '--json')
    expect(first).toMatchObject({ code: 0, stderr: '' })
    const { images, modelHash, timings, warnings } = JSON.parse(first.stdout) as {
      images: unknown
      modelHash: string
      timings: { stepMs: number[]; totalMs: number }
      warnings: unknown
    }
    expect(images).toEqual([{ path: path.join(folder, 'a.png'), seed: 1, width: 1024, height: 1024 }])
    expect(modelHash).toMatch(/^[0-9a-f]{64}$/)
    expect(timings.stepMs).toHaveLength(2)
    expect(warnings).toEqual([])
    const bytes = readFileSync(path.join(folder, 'a.png'))
    expect(await sharp(bytes).metadata()).toMatchObject({ format: 'png', width: 1024, height: 1024, channels: 3 })
    expect(bytes.includes('a red apple on a light blue background')).toBe(true)

    const second = await sepia(...order, '-o', '.')
    expect(second.stdout).toMatch(/sepia-1\.png {2}seed 1 {2}[\d.]+ s\n$/)
    expect(second.stderr).toBe('')
    expect(readFileSync(path.join(folder, 'sepia-1.png')).equals(bytes)).toBe(true)
    expect(readdirSync(folder).sort()).toEqual(['a.png', 'sepia-1.png'])
    expect(leftovers(place)).toEqual([])
  })

  it('has a size that suits the model, or the reason is told', async () => {
    const { code, stderr } = await sepia('generate', 'a red apple', '--width', '1020')
    expect(code).toBe(2)
    expect(stderr).toMatch(/^sepia: width: .*1020.*\n$/)
    expect(readdirSync(folder)).toEqual([])
  })
})

describe('an end from outside', () => {
  const endings: readonly [string, (pid: number) => void, number | null][] = [
    ['Ctrl-C, which reaches the whole group', (pid) => process.kill(-pid, 'SIGINT'), 130],
    ['SIGTERM to the outer process alone', (pid) => process.kill(pid, 'SIGTERM'), 143],
    ['SIGKILL to the outer process alone', (pid) => process.kill(pid, 'SIGKILL'), null],
  ]
  it.each(nodes.flatMap((node) => endings.map(([name, end, code]) => ({ name, node, end, code }))))(
    '$name ends all processes and leaves nothing: $node',
    async ({ node, end, code }) => {
      const { child, ended, pids } = await startLong(node)
      expect(pids).toHaveLength(node === process.execPath ? 2 : 3)
      const startMs = performance.now()
      end(child.pid!)
      await timeUntil(() => !pids.some(isRunning), 2000)
      // The engine notices a killed parent within a quarter of a second; all else is told at once.
      expect(performance.now() - startMs).toBeLessThan(1000)
      expect((await ended).code).toBe(code)
      expect(readdirSync(folder)).toEqual([])
      expect(leftovers(place, child.pid)).toEqual([])
    },
  )

  it('a killed engine is one clear line', async () => {
    const { ended, pids } = await startLong()
    process.kill(pids.at(-1)!, 'SIGKILL')
    const { code, stderr } = await ended
    expect(code).toBe(1)
    expect(stderr).toContain(
      '\nsepia: the engine process was killed from outside (SIGKILL), most likely because memory ran out\n',
    )
    expect(readdirSync(folder)).toEqual([])
    expect(leftovers(place)).toEqual([])
  })
})

describe('sepia inspect', () => {
  it('tells what the shipped model is', async () => {
    const { code, stdout, stderr } = await sepia('inspect', path.join(bin, '..', '..', 'models', 'pocket'))
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toMatch(/Stable Diffusion XL/)
    expect(stdout).toMatch(/[0-9a-f]{64}/)
  })
})

describe('sepia doctor', () => {
  it('says that the CPU works', async () => {
    const { code, stdout } = await sepia('doctor')
    expect(code).toBe(0)
    expect(stdout).toMatch(/^ +cpu +loads$/m)
  })
})
