// Rounded precisions against fp32: whole pictures at cfg 7, and the UNet's output at each step. The bounds are what
// bench/fidelity.ts tells of larger pictures too, less a few decibels; with another rounding than intended they are missed.
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { GenerateTask } from '#worker/protocol.ts'
import { createScratch, removeScratch } from '#worker/scratch-folder.ts'
import { exactPicture, fidelityOf, type ExactPicture } from '../support/fidelity.ts'
import { hasBf16, openvinoFolder } from '../support/openvino.ts'
import { taskFor } from './fixture-task.ts'

const root = path.join(import.meta.dirname, '../..')
const models = {
  pocket: { folder: path.join(root, 'test/golden/models/pocket'), size: 512, room: 1 },
  // Its guidance enlarges what is wrong, most of all in the last steps.
  'pocket as it ships': { folder: path.join(root, 'models/pocket'), size: 1024, room: 8 },
  // A few random channels, of which single ones carry the result.
  'tiny-a': { folder: path.join(root, 'test/golden/models/tiny-a'), size: 64, room: 4 },
} as const

/** Decibels of the picture at least, and the relative error of a step at most. */
const ways = [
  { precision: 'bf16', backend: 'openvino', leastPsnr: 40, mostError: 2e-2 },
  { precision: 'int8', backend: 'openvino', leastPsnr: 34, mostError: 4e-2 },
  { precision: 'int8', backend: 'onnxruntime', leastPsnr: 39, mostError: 3e-2 },
] as const

describe.each(Object.entries(models))('%s', (_, { folder, room, size }) => {
  const files = { checkpoint: folder, refiner: null, pictures: {}, assets: {} }
  const task: GenerateTask = {
    ...taskFor('a red apple on a light blue background'),
    width: size,
    height: size,
    numInferenceSteps: 8,
    guidanceScale: 7,
  }
  let scratchDir = ''
  let exact: ExactPicture
  const settings = () =>
    ({
      device: 'cpu',
      threads: 2,
      cacheDir: path.dirname(path.dirname(scratchDir)),
      cacheLimitBytes: 64e9,
      scratchDir,
      openvinoFolders: [openvinoFolder],
    }) as const

  beforeAll(async () => {
    scratchDir = await createScratch(path.join(root, 'node_modules/.cache/sepia-fidelity'))
    exact = await exactPicture(task, files, { ...settings(), backend: 'onnxruntime', precision: 'fp32' })
  })
  afterAll(() => removeScratch(scratchDir))

  test.each(ways)('$precision on $backend', async ({ backend, leastPsnr, mostError, precision }) => {
    if (precision === 'bf16' && !hasBf16()) {
      console.warn('not run: this CPU has neither AVX512_BF16 nor AMX')
      return
    }
    const { psnr, stepErrors } = await fidelityOf(task, files, { ...settings(), backend, precision }, exact)
    expect(stepErrors.length).toBe(exact.evaluations.length)
    expect(Math.max(...stepErrors)).toBeLessThan(mostError * room)
    expect(Math.min(...stepErrors), 'it is rounded at all').toBeGreaterThan(1e-5)
    expect(psnr).toBeGreaterThan(leastPsnr)
  })
})
