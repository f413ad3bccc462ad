// Two thousand files that somebody could upload to do harm go through one engine process: each is refused in words for
// its owner, nothing in them is run, and the process neither dies nor grows.
import { existsSync, readFileSync } from 'node:fs'
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { EngineProcess } from '#worker/engine-process.ts'
import type { AssetReport } from '#worker/protocol.ts'
import { AppError } from '../../src/errors.ts'
import { hostileFiles } from '../support/hostile-files.ts'
import { tinyModels } from '../support/tiny-b-single-file.ts'
import { engineSettings } from './fixture-task.ts'

const count = Number(process.env['SEPIA_TEST_HOSTILE'] ?? 2000)
const seed = Number(process.env['SEPIA_TEST_SEED'] ?? 1)
const tinyA = join(tinyModels, 'tiny-a')
/** What a process may come to hold over what it held before, in bytes: headers of up to 16 MiB, and their values. */
const growthLimit = 448 << 20

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sepia-hostile-'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

/** Whether an outcome is a refusal as a stranger should read it. */
function isRefusal(outcome: unknown): boolean {
  if (!(outcome instanceof AppError)) return false
  const { code, message } = outcome
  const isPlain =
    message.isWellFormed() &&
    !/[\p{Cc}\p{Bidi_Control}]/u.test(message) &&
    message.length < 1600 &&
    !message.includes(folder) &&
    !message.includes(tinyA)
  return ['bad_file', 'wrong_architecture', 'missing_tensors'].includes(code) && isPlain
}

test(`${count} hostile uploads are refused`, async () => {
  const [path, output, marker] = ['upload', 'output', 'marker'].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ]
  await using engine = await EngineProcess.start(engineSettings(join(folder, 'cache')))
  const inspect = (kind: AssetReport['kind']): Promise<unknown> =>
    engine.inspectAsset({ path, output, kind, checkpoint: tinyA }).catch((error: unknown) => error)
  // What the process needs anyway: the code of each kind, and the model that is served.
  await writeFile(path, '{}')
  await inspect('checkpoint')
  const before = peakBytes(engine)

  const wrong: unknown[] = []
  const ways = new Set<string>()
  for (const { bytes, kind, name } of hostileFiles(seed, count, marker)) {
    await writeFile(path, bytes)
    const outcome = await inspect(kind)
    ways.add(name.slice(name.indexOf(' ')))
    if (!isRefusal(outcome) || existsSync(output)) wrong.push({ name, kind, outcome })
  }
  expect(wrong).toEqual([])
  expect(ways.size).toBeGreaterThan(count < 200 ? 0 : 95)
  expect(existsSync(marker)).toBe(false)
  expect((await readdir(folder)).toSorted()).toEqual(['cache', 'upload'])
  expect(engine.running).toBe(true)
  expect(peakBytes(engine) - before).toBeLessThan(growthLimit)
})

/** The most memory that a process ever held. */
function peakBytes({ pid }: EngineProcess): number {
  const [, kilobytes] = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))!
  return Number(kilobytes) * 1024
}
