import { mkdir, readdir, utimes } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { TextEncoder } from '#engine/networks/text-encoder.ts'
import type { Component } from '#engine/weights/checkpoint.ts'
import type { ClipTextConfig } from '#engine/models/clip-text-config.ts'
import { PipelineCache, type OpenModel } from '#worker/pipeline-cache.ts'
import { engineSettings } from './fixture-task.ts'
import { temporaryFolder } from '../support/temporary-folder.ts'
import { tinyModels } from '../support/tiny-b-single-file.ts'

const load = (pipelines: PipelineCache, model: OpenModel, component: Component<ClipTextConfig>): Promise<TextEncoder> =>
  pipelines.network(
    model,
    {
      kind: 'textEncoder',
      component,
      options: { chunks: 1, skipLayers: 1 },
      activationBytes: 0,
      load: (...args) => TextEncoder.load(...args),
    },
    () => {},
  )

describe('the networks of a process that lives long', () => {
  it('keep their prepared files while they are loaded, and no longer', async () => {
    const cacheDir = await temporaryFolder('pipelines')
    const scratchDir = join(cacheDir, 'scratch')
    await mkdir(scratchDir)
    const settings = { ...engineSettings(cacheDir), scratchDir, cacheLimitBytes: 0 }
    await using pipelines = new PipelineCache(settings, { freeBytes: () => 1e12 })
    const model = await pipelines.open(join(tinyModels, 'tiny-b'), () => {})
    const { textEncoder, textEncoder2 } = model.checkpoint

    /** The prepared files, all made to look as if they had not been used for long. */
    const files = async (): Promise<string[]> => {
      const names = await readdir(join(cacheDir, 'weights'))
      for (const name of names) await utimes(join(cacheDir, 'weights', name), 1, 1)
      return names
    }
    await load(pipelines, model, textEncoder!)
    const [first] = await files()
    await load(pipelines, model, textEncoder2)
    expect(await files()).toHaveLength(2)
    expect(pipelines.loaded).toHaveLength(2)

    // Both are closed to make room; the limit is held again from the next network on.
    await pipelines.makeRoom(1e13)
    expect(pipelines.loaded).toEqual([])
    await load(pipelines, model, textEncoder2)
    expect(await files()).toEqual(expect.not.arrayContaining([first]))
    expect(await files()).toHaveLength(1)
  })
})
