// Whole pictures that start from a picture or end with a refiner, against diffusers with the same weights and seeds
// (tools/reference/modes.py), before anything is put back into the given picture.
import { mkdtempSync, readFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { encodePng } from '#image/codec.ts'
import { pictureDifference } from '../support/difference.ts'
import { runTask } from '../support/make-pictures.ts'
import { modeFiles, modesFolder, modeTask, type ModeCase } from '../support/mode-case.ts'
import { writeTinyInpaint } from '../support/mode-models.ts'
import { tinyModels } from '../support/tiny-b-single-file.ts'

const cases = JSON.parse(readFileSync(join(modesFolder, 'cases.json'), 'utf8')) as ModeCase[]
const folder = mkdtempSync(join(tmpdir(), 'sepia-modes-'))
let tinyInpaint: string

beforeAll(async () => {
  tinyInpaint = await writeTinyInpaint(folder)
})
afterAll(() => rm(folder, { recursive: true, force: true }))

function modelOf({ model }: ModeCase): string {
  if (model === 'pocket') return join(import.meta.dirname, '../golden/models/pocket')
  return model === 'tiny-inpaint' ? tinyInpaint : join(tinyModels, model)
}

describe('the same picture and seed give the picture of diffusers', () => {
  test.each(cases.map((c) => [c.name, c] as const))('%s', async (name, c) => {
    // Networks as small as the tiny ones are slower with more threads.
    const { painted } = await runTask(modelOf(c), modeTask(c), { threads: c.model === 'pocket' ? 2 : 1 }, modeFiles(c))
    const { mean, max } = await pictureDifference(await encodePng(painted[0]), join(modesFolder, `${name}.png`))
    expect(mean).toBeLessThanOrEqual(0.2)
    expect(max).toBeLessThanOrEqual(3)
  })
})
