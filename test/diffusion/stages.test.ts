import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import type { DenoiserModel, PipelineModel } from '#diffusion/networks.ts'
import type { SamplerName } from '#diffusion/samplers.ts'
import { evaluationsOf, planStages, type StageInput } from '#diffusion/stages.ts'
import { openCheckpoint } from '#engine/weights/open-checkpoint.ts'
import { tinyRefiner } from '../support/mode-models.ts'
import { tinyModels } from '../support/tiny-b-single-file.ts'

const base = await openCheckpoint(join(tinyModels, 'tiny-a'))
const refiner = await openCheckpoint(tinyRefiner)
/** Leading spacing: 901, 801 … 1 for ten steps; the refiner's is trailing: 999, 899 … 99. */
const model = { ...base, refiner: refiner as unknown as DenoiserModel } as unknown as PipelineModel

function plan(changes: Partial<StageInput>) {
  return planStages(model, { sampler: 'DDIM', numInferenceSteps: 10, strength: 1, denoisingEnd: null, ...changes })
}

describe('the part of a schedule that is run', () => {
  test.each([
    ['DDIM', 1, { begin: 0, end: 10 }],
    ['DDIM', 0.99, { begin: 1, end: 10 }],
    ['DDIM', 0.3, { begin: 7, end: 10 }],
    // 10 × 0.29 = 2.9, which is rounded down, and 10 × 0.7 = 7 although 0.7 is no number of the machine.
    ['DDIM', 0.29, { begin: 8, end: 10 }],
    ['DDIM', 0.7, { begin: 3, end: 10 }],
    // Methods of second order: two evaluations a step, one for the last.
    ['K_HEUN', 1, { begin: 0, end: 19 }],
    ['K_HEUN', 0.3, { begin: 14, end: 19 }],
  ] as const)('%s at strength %d', (sampler: SamplerName, strength, stage) => {
    expect(plan({ sampler, strength })).toEqual({ base: stage, refiner: null })
  })

  test.each([
    [0, /^strength: 0 is not above 0 and up to 1$/],
    [-0.5, /^strength: -0.5 is not above 0/],
    [1.01, /^strength: 1.01 is not above 0 and up to 1$/],
    [NaN, /^strength: NaN is not/],
    [0.09, /^strength: 0.09 of 10 steps is less than one step; it takes at least 0.1$/],
  ])('strength %d is refused', (strength, message) => {
    expect(() => plan({ strength })).toThrow(
      expect.objectContaining({
        code: 'bad_argument',
        field: 'start.strength',
        message: expect.stringMatching(message),
      }),
    )
  })

  test('the strength that a refusal names is enough', () => {
    for (const steps of [1, 3, 7, 30, 33, 50, 200]) {
      let least = 0
      try {
        plan({ numInferenceSteps: steps, strength: 1e-9 })
      } catch (error) {
        least = Number(/at least (.*)$/.exec((error as Error).message)![1])
      }
      expect(evaluationsOf(plan({ numInferenceSteps: steps, strength: least }).base)).toBe(1)
    }
  })
})

describe('base model and refiner', () => {
  test.each([
    // Timesteps from 200 upwards, and the refiner's below.
    ['DDIM', 1, 0.8, { base: { begin: 0, end: 8 }, refiner: { begin: 8, end: 10 } }],
    ['DDIM', 1, 0.5, { base: { begin: 0, end: 5 }, refiner: { begin: 5, end: 10 } }],
    ['DDIM', 0.6, 0.8, { base: { begin: 4, end: 8 }, refiner: { begin: 8, end: 10 } }],
    // All of the run lies behind the split.
    ['DDIM', 0.3, 0.5, { base: null, refiner: { begin: 7, end: 10 } }],
    ['DDIM', 1, 0, { base: null, refiner: { begin: 0, end: 10 } }],
    ['DDIM', 0.3, 0, { base: null, refiner: { begin: 7, end: 10 } }],
    // Nothing is left for the refiner: the base model does not stop before the end.
    ['DDIM', 1, 0.99, { base: { begin: 0, end: 10 }, refiner: null }],
    ['DDIM', 1, 1, { base: { begin: 0, end: 10 }, refiner: null }],
    // 19 evaluations: the refiner begins with a step's first one, as diffusers does, even if the base model was there.
    ['K_HEUN', 1, 0.8, { base: { begin: 0, end: 15 }, refiner: { begin: 14, end: 19 } }],
  ] as const)('%s at strength %d, split at %d', (sampler: SamplerName, strength, denoisingEnd, stages) => {
    expect(plan({ sampler, strength, denoisingEnd })).toEqual(stages)
  })

  test('a split out of range is refused', () => {
    for (const denoisingEnd of [-0.1, 1.5, NaN])
      expect(() => plan({ denoisingEnd })).toThrow(
        expect.objectContaining({ code: 'bad_argument', field: 'refiner.denoisingEnd' }),
      )
  })
})
