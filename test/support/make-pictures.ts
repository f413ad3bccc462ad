import { mkdirSync, mkdtempSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll } from 'vitest'
import { PipelineCache } from '#worker/pipeline-cache.ts'
import { runGenerate } from '#worker/run-generate.ts'
import type { EngineSettings, GenerateResult, GenerateTask, Progress, TaskFiles } from '#worker/protocol.ts'
import type { Pixels } from '#image/codec.ts'

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

/** What a task gives and reports. */
export type TaskOutcome = {
  readonly pictures: Uint8Array[]
  /** The pictures before they are put into their place in the given one. */
  readonly painted: Pixels[]
  readonly progress: Progress[]
  readonly result: GenerateResult
}

/** The same, with what the engine reports; `files` names refiner and pictures. */
export async function runTask(
  model: string,
  task: GenerateTask,
  overrides: Partial<EngineSettings> = {},
  files: Partial<TaskFiles> = {},
): Promise<TaskOutcome> {
  const settings: EngineSettings = {
    device: 'cpu',
    backend: 'onnxruntime',
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
  const painted: Pixels[] = []
  const progress: Progress[] = []
  const result = await runGenerate(
    task,
    { checkpoint: model, refiner: null, pictures: {}, assets: {}, ...files },
    {
      pipelines,
      // A clock that stands still: previews come with every step.
      now: () => 0,
      onProgress: (event) => void progress.push(event),
      onPainted: (index, pixels) => void (painted[index] = pixels),
      onImage: async (index, _seed, bytes) => {
        pictures[index] = bytes
      },
    },
  )
  return { pictures, painted, progress, result }
}
