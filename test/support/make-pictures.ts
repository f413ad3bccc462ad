import { mkdirSync, mkdtempSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll } from 'vitest'
import { PipelineCache } from '#worker/pipeline-cache.ts'
import { runGenerate } from '#worker/run-generate.ts'
import type { EngineSettings, GenerateResult, GenerateTask } from '#worker/protocol.ts'

const folder = mkdtempSync(path.join(tmpdir(), 'sepia-pictures-'))
const caches = new Map<string, PipelineCache>()

afterAll(async () => {
  for (const cache of caches.values()) await cache[Symbol.asyncDispose]()
  caches.clear()
  await rm(folder, { recursive: true, force: true })
})

/** Encoded pictures of a task, made in this process; loaded networks are shared by the calls of one test file. */
export async function makePictures(
  model: string,
  task: GenerateTask,
  overrides: Partial<EngineSettings> = {},
): Promise<Uint8Array[]> {
  return (await runTask(model, task, overrides)).pictures
}

/** The same, with what the engine reports. */
export async function runTask(
  model: string,
  task: GenerateTask,
  overrides: Partial<EngineSettings> = {},
): Promise<{ pictures: Uint8Array[]; result: GenerateResult }> {
  const settings: EngineSettings = {
    device: 'cpu',
    precision: 'fp32',
    threads: 2,
    cacheDir: path.join(folder, 'cache'),
    cacheLimitBytes: 1e9,
    scratchDir: path.join(folder, 'scratch'),
    ...overrides,
  }
  mkdirSync(settings.scratchDir, { recursive: true })
  const key = JSON.stringify(settings)
  const pipelines = caches.get(key) ?? new PipelineCache(settings)
  caches.set(key, pipelines)
  const pictures: Uint8Array[] = []
  const result = await runGenerate(
    task,
    { checkpoint: model, refiner: null, pictures: {} },
    {
      settings,
      pipelines,
      onProgress: () => {},
      onImage: async (index, _seed, bytes) => {
        pictures[index] = bytes
      },
    },
  )
  return { pictures, result }
}
