import { createHash, randomBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { resolveGenerate } from '../../src/service/jobs/resolve-generate.ts'
import { orderFor } from '../support/job-office.ts'

const here = { refiner: true, previews: false }
const [picture, mask] = [randomBytes(20), randomBytes(10)]
const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')
const taskOf = (changes: Parameters<typeof orderFor>[1], context = here) =>
  resolveGenerate(orderFor('a cat', changes), context).task

describe('seeds', () => {
  it('are kept, and chosen where they are null', () => {
    const random = (limit: number): number => limit - 1
    const order = orderFor('a cat', { seeds: [5, null, 0] })
    expect(resolveGenerate(order, { ...here, random }).task.seeds).toEqual([5, 2 ** 32 - 1, 0])
    const { seeds } = taskOf({ seeds: Array.from({ length: 16 }, () => null) })
    expect(new Set(seeds).size).toBe(16)
    for (const seed of seeds) expect(Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32).toBe(true)
  })
})

describe('the start', () => {
  it('is text alone, whatever strength says', () => {
    expect(taskOf({ strength: 0.001 }).start).toEqual({ mode: 'textToImage' })
  })

  it('is a picture by its hash', () => {
    const { inputs, task } = resolveGenerate(orderFor('a cat', { initImage: picture, strength: 0.5 }), here)
    expect(task.start).toEqual({ mode: 'imageToImage', image: sha256(picture), strength: 0.5 })
    expect([...inputs]).toEqual([[sha256(picture), picture]])
  })

  it.each([
    [{}, { mode: 'inpaint', fullResPadding: null }],
    [
      { inpaintFullRes: true, inpaintFullResPadding: 8 },
      { mode: 'inpaint', fullResPadding: 8 },
    ],
    [{ outpainting: true }, { mode: 'outpaint' }],
  ])('is a picture and a mask: %j', (changes, start) => {
    const order = orderFor('a cat', { initImage: picture, maskImage: mask, ...changes })
    const { inputs, task } = resolveGenerate(order, here)
    expect(task.start).toEqual({ image: sha256(picture), mask: sha256(mask), strength: 0.8, ...start })
    expect(inputs.size).toBe(2)
  })

  it.each([
    [{ maskImage: mask }, 'maskImage'],
    [{ outpainting: true, initImage: picture }, 'outpainting'],
    [{ outpainting: true }, 'outpainting'],
    [{ inpaintFullRes: true }, 'inpaintFullRes'],
    [{ initImage: picture, strength: 0.49 }, 'strength'],
  ])('cannot be %j', (changes, field) => {
    expect(() => taskOf(changes)).toThrow(expect.objectContaining({ code: 'bad_argument', field }))
  })
})

describe('the refiner', () => {
  it('does the rest where there is one and some is left', () => {
    expect(taskOf({ useRefiner: true, denoisingEnd: 0.7 }).refiner).toEqual({ denoisingEnd: 0.7 })
    expect(taskOf({ useRefiner: true, denoisingEnd: 1 }).refiner).toBeNull()
    expect(taskOf({ useRefiner: false, denoisingEnd: 0.7 }).refiner).toBeNull()
  })

  it('is told of where it is asked for and there is none', () => {
    const without = { refiner: false, previews: false }
    const resolved = resolveGenerate(orderFor('a cat', { useRefiner: true, enableSafety: true }), without)
    expect(resolved.task.refiner).toBeNull()
    expect(resolved.notApplied).toEqual(['useRefiner', 'enableSafety'])
    expect(resolveGenerate(orderFor('a cat', { useRefiner: true }), here).notApplied).toEqual([])
    const baseAlone = orderFor('a cat', { useRefiner: true, denoisingEnd: 1 })
    expect(resolveGenerate(baseAlone, without).notApplied).toEqual([])
  })
})

it('applies the style', () => {
  const plain = taskOf({ stylePreset: 'base', negativePrompt: 'blur' })
  expect(plain).toMatchObject({ prompt: 'a cat', negativePrompt: 'blur' })
  const styled = taskOf({ stylePreset: 'origami', negativePrompt: 'blur' })
  expect(styled.prompt).toMatch(/a cat./)
  expect(styled.negativePrompt).toMatch(/., blur$/)
})

it('names the files of assets, and is dearer with any of them', () => {
  const none = { checkpoint: null, vae: null, loras: [], textualInversions: [] }
  const some = [
    { ...none, checkpoint: 'c'.repeat(64) },
    { ...none, vae: 'd'.repeat(64) },
    { ...none, loras: [{ asset: 'e'.repeat(64), scale: -1.5 }] },
    { ...none, textualInversions: [{ asset: 'f'.repeat(64), trigger: 'neg' }] },
  ]
  for (const assets of some) {
    const { task, price } = resolveGenerate(orderFor('a cat'), { ...here, assets })
    expect(task).toMatchObject(assets)
    expect(price.custom).toBe(true)
  }
  const { task, price } = resolveGenerate(orderFor('a cat'), here)
  expect(task).toMatchObject(none)
  expect(price.custom).toBe(false)
})

it('refuses more steps than the sampler takes', () => {
  expect(() => taskOf({ sampler: 'LCM', numInferenceSteps: 51 })).toThrow(
    expect.objectContaining({ code: 'bad_argument', message: expect.stringContaining('steps') as string }),
  )
})

it('prices what it makes', () => {
  const order = orderFor('a cat', { sampler: 'DPM_2', width: 640, height: 1536, seeds: [1, 2, 3] })
  expect(resolveGenerate(order, here).price).toEqual({
    steps: 2,
    width: 640,
    height: 1536,
    premium: true,
    custom: false,
    controlnet: false,
    photoMerge: false,
    images: 3,
  })
})
