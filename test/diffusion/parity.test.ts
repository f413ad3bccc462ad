// Whole pictures against diffusers with the same weights and seeds (tools/reference/parity.py). bench/parity.ts does
// the same for every combination.
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { goldenFolder } from '../support/golden.ts'
import { pictureDifference } from '../support/difference.ts'
import { makePictures } from '../support/make-pictures.ts'
import { onOpenvino } from '../support/openvino.ts'
import { modelOf, taskOf, type ParityCase } from '../support/parity-case.ts'
import { writeTinyBSingleFile } from '../support/tiny-b-single-file.ts'

const folder = path.join(goldenFolder, 'parity')
const cases = JSON.parse(readFileSync(path.join(folder, 'cases.json'), 'utf8')) as ParityCase[]

describe('the same seed gives the picture of diffusers', () => {
  test.each(cases.map((c) => [c.name, c] as const))('%s', async (name, c) => {
    const [picture] = await makePictures(modelOf(c), taskOf(c))
    const { mean, max } = await pictureDifference(picture, path.join(folder, `${name}.png`))
    expect(mean).toBeLessThanOrEqual(0.2)
    expect(max).toBeLessThanOrEqual(3)
  })
})

describe('and on OpenVINO, at the same tolerance', () => {
  // The schedulers are the same code on both; these see every network at several sizes.
  const some = cases.filter(
    (c) => c.steps === 10 && /^(tiny-.*-(ddim|k_euler_ancestral)|pocket-256x256-ddpm)-/.test(c.name),
  )
  test.each(some.map((c) => [c.name, c] as const))('%s', async (name, c) => {
    const [picture] = await makePictures(modelOf(c), taskOf(c), onOpenvino)
    const { mean, max } = await pictureDifference(picture, path.join(folder, `${name}.png`))
    expect(mean).toBeLessThanOrEqual(0.2)
    expect(max).toBeLessThanOrEqual(3)
  })
})

describe('fp16 graphs stay close', () => {
  test.each(cases.filter((c) => c.name.startsWith('tiny-') && c.steps === 10).map((c) => [c.name, c] as const))(
    '%s',
    async (name, c) => {
      const [picture] = await makePictures(modelOf(c), taskOf(c), { precision: 'fp16' })
      const { mean } = await pictureDifference(picture, path.join(folder, `${name}.png`))
      expect(mean).toBeLessThanOrEqual(2)
    },
  )
})

test.each(['K_EULER_ANCESTRAL', 'DPM_PLUS_PLUS_2M_KARRAS'])(
  '%s: three pictures at once are the three made alone, bit for bit',
  async (sampler) => {
    const c = cases.find((candidate) => candidate.model === 'tiny-b' && candidate.sampler === sampler)!
    const seeds = [4294967295, 0, 1]
    const together = await makePictures(modelOf(c), { ...taskOf(c), seeds })
    for (const [index, seed] of seeds.entries()) {
      const [alone] = await makePictures(modelOf(c), { ...taskOf(c), seeds: [seed] })
      expect(Buffer.compare(alone, together[index])).toBe(0)
    }
    expect(Buffer.compare(together[0], together[1])).not.toBe(0)
  },
)

test('a single file gives the same bytes as the folder with the same weights', async () => {
  const c = cases.find((candidate) => candidate.model === 'tiny-b')!
  const [fromFolder] = await makePictures(modelOf(c), taskOf(c))
  const [fromFile] = await makePictures(await writeTinyBSingleFile(), taskOf(c))
  expect(Buffer.compare(fromFile, fromFolder)).toBe(0)
})
