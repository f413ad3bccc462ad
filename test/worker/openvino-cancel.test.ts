// A cancelled task on OpenVINO: its process stays, with all that it has loaded.
import path from 'node:path'
import { expect, test } from 'vitest'
import { EngineProcess } from '#worker/engine-process.ts'
import type { Progress } from '#worker/protocol.ts'
import { onOpenvino } from '../support/openvino.ts'
import { temporaryFolder } from '../support/temporary-folder.ts'
import { tinyModels } from '../support/tiny-b-single-file.ts'
import { engineSettings, taskFor } from './fixture-task.ts'

const files = { checkpoint: path.join(tinyModels, 'tiny-a'), refiner: null, pictures: {}, assets: {} }

test('a cancelled task leaves its process and its networks, and the next one makes the same picture', async () => {
  const settings = { ...engineSettings(await temporaryFolder('cancel')), ...onOpenvino }
  await using engine = await EngineProcess.start(settings)
  const task = { ...taskFor('a red apple', [1]), numInferenceSteps: 4, width: 64, height: 64 }
  const loads: string[] = []
  const run = async (steps: number, onStep: (step: number) => void, signal?: AbortSignal): Promise<Uint8Array> => {
    let picture = new Uint8Array()
    const onProgress = (progress: Progress): void => {
      if (progress.phase === 'load') loads.push(progress.component)
      if (progress.phase === 'denoise') onStep(progress.step)
    }
    const onImage = (_index: number, _seed: number, bytes: Uint8Array): void => void (picture = new Uint8Array(bytes))
    await engine.generate({ ...task, numInferenceSteps: steps }, files, { signal, onProgress, onImage })
    return picture
  }
  const before = await run(4, () => {})
  expect(loads).toEqual(['textEncoder', 'textEncoder2', 'unet', 'vae'])
  const cancel = new AbortController()
  let abortedMs = 0
  const stopped = run(
    200,
    (step) => {
      if (step !== 3) return
      abortedMs = performance.now()
      cancel.abort()
    },
    cancel.signal,
  )
  await expect(stopped).rejects.toMatchObject({ code: 'cancelled' })
  expect(performance.now() - abortedMs).toBeLessThan(1000)
  expect(engine.running).toBe(true)
  expect(engine.killed).toBe(false)
  expect(await run(4, () => {})).toEqual(before)
  expect(loads).toHaveLength(4)
})
