import { describe, expect, test } from 'vitest'
import { samplerAliases, samplerNames, samplers, type SamplerName } from '#diffusion/samplers.ts'
import { createScheduler } from '#diffusion/schedulers/create-scheduler.ts'
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { sdxlSchedulerConfig as sdxl } from '#engine/weights/scheduler-options.ts'
import { TorchGenerator } from '#tensor/random.ts'

describe('a run that the model cannot give', () => {
  const refused = (sampler: SamplerName, changes: Partial<SchedulerConfig>, steps: number) => {
    try {
      createScheduler(sampler, { ...sdxl, ...changes }, steps)
    } catch (error) {
      return error
    }
    throw new Error('was not refused')
  }

  test.each([0, 201, 2.5, -1, Number.NaN])('%s steps', (steps) => {
    for (const sampler of samplerNames)
      expect(refused(sampler, {}, steps)).toMatchObject({
        code: 'bad_argument',
        message: `steps: ${steps} is not a whole number in 1..${sampler === 'LCM' ? 50 : 200} (sampler ${sampler})`,
      })
    expect(refused('LCM', {}, 51)).toMatchObject({ code: 'bad_argument' })
  })

  test('more steps than training timesteps', () => {
    expect(refused('DDIM', { numTrainTimesteps: 50, stepsOffset: 0 }, 51)).toMatchObject({
      code: 'bad_argument',
      message: "steps: 51 is more than this model's 50 training timesteps",
    })
    expect(createScheduler('DDIM', { ...sdxl, numTrainTimesteps: 50, stepsOffset: 0 }, 50).timesteps).toHaveLength(50)
  })

  test('an offset beyond the last timestep', () => {
    expect(refused('K_EULER', { numTrainTimesteps: 50 }, 50)).toMatchObject({
      code: 'bad_argument',
      message: 'steps: 50 with leading spacing asks for timestep 50, outside 0..49',
    })
  })

  test('LCM without a timestep for each of the steps it was distilled from', () => {
    expect(refused('LCM', { numTrainTimesteps: 49 }, 1)).toMatchObject({
      code: 'bad_argument',
      message: 'sampler: LCM needs a model with 50 or more training timesteps; this one has 49',
    })
  })

  test.each(['DDIM', 'DDPM', 'LCM', 'PNDM'] as const)(
    '%s and epsilon where nothing of the picture is left',
    (sampler) => {
      const changes = { rescaleBetasZeroSnr: true, timestepSpacing: 'trailing' } as const
      const error = refused(sampler, changes, 10)
      expect(error).toMatchObject({ code: 'bad_argument' })
      expect(String(error)).toMatch(
        new RegExp(`sampler: ${sampler} cannot start from zero terminal SNR \\(timestep 999\\)`),
      )
      // From the middle there is something left.
      expect(createScheduler(sampler, { ...sdxl, ...changes }, 10, 5).timesteps).toHaveLength(
        sampler === 'PNDM' ? 11 : 10,
      )
    },
  )

  const needNoise = [
    'PNDM',
    'K_EULER_ANCESTRAL',
    'DPM_2',
    'DPM_2_ANCESTRAL_KARRAS',
    'DPM_PLUS_PLUS_SDE_KARRAS',
  ] as const
  test.each(needNoise)('%s for a model that predicts the sample', (sampler) => {
    expect(refused(sampler, { predictionType: 'sample' }, 10)).toMatchObject({
      code: 'bad_argument',
      message: `sampler: ${sampler} needs a model that predicts epsilon or v_prediction; this one predicts sample`,
    })
  })

  test('a beginning in the middle of a step, or after the end', () => {
    expect(() => createScheduler('HEUN', sdxl, 10, 3)).toThrow('evaluation 3 begins no step of 19 evaluations')
    expect(() => createScheduler('DDIM', sdxl, 10, 10)).toThrow('evaluation 10 begins no step of 10 evaluations')
  })
})

describe('every sampler', () => {
  const shape = [1, 4, 2, 3]
  test.each(samplerNames)('%s at 1, 2, 3, 50 and 200 steps: finite, and as its traits say', (sampler) => {
    for (const steps of [1, 2, 3, 50, samplers[sampler].maxSteps])
      for (const timestepSpacing of ['leading', 'trailing', 'linspace'] as const)
        for (const useKarrasSigmas of [false, true]) {
          const config = { ...sdxl, timestepSpacing, useKarrasSigmas }
          const scheduler = createScheduler(sampler, config, steps)
          const picture = new TorchGenerator(1)
          const network = new TorchGenerator(2)
          const latents = picture.randn(shape).data.map((value) => value * scheduler.initNoiseSigma)
          const [input, output, fresh] = [latents.slice(), latents.slice(), latents.slice()]
          let draws = 0
          const noise = () => {
            draws += 1
            return picture.fillNormal(fresh)
          }
          for (const [index, timestep] of scheduler.timesteps.entries()) {
            expect(timestep >= 0 && timestep < 1000).toBe(true)
            scheduler.scaleModelInput(latents, index, input)
            scheduler.step(network.fillNormal(output), index, latents, noise)
            expect(latents.every(Number.isFinite)).toBe(true)
          }
          const evaluations =
            sampler === 'PNDM' && steps > 1 ? steps + 1 : steps * scheduler.order - (scheduler.order - 1)
          expect(scheduler.timesteps).toHaveLength(evaluations)
          expect(scheduler.order).toBe(samplers[sampler].order)
          // A single step may be the last one, at which some draw nothing.
          expect(draws > 0 || steps === 1).toBe(samplers[sampler].stochastic || steps === 1)
        }
  })

  test.each(samplerNames)('%s makes no arrays after its first evaluations', (sampler) => {
    const length = 1 << 18
    const scheduler = createScheduler(sampler, sdxl, 12)
    const fresh = new TorchGenerator(1).randn([length]).data
    const [latents, input] = [fresh.slice(), fresh.slice()]
    const allocated: number[] = []
    for (let index = 0; index < 10; index++) {
      scheduler.scaleModelInput(latents, index, input)
      scheduler.step(input, index, latents, () => fresh)
      allocated.push(process.memoryUsage().arrayBuffers)
    }
    // A collection may take memory away, so only growth counts.
    const growth = allocated.map((bytes, index) => (index === 0 ? 0 : bytes - allocated[index - 1]))
    expect(Math.max(...growth.slice(6))).toBeLessThan(length * 4)
  })

  test('an older spelling stands for a sampler, and is none itself', () => {
    for (const [alias, sampler] of Object.entries(samplerAliases)) {
      expect(samplerNames).toContain(sampler)
      expect(samplerNames).not.toContain(alias)
    }
  })

  test('the prices of the table', () => {
    expect(samplerNames).toHaveLength(21)
    expect(samplerNames.filter((name) => samplers[name].premium)).toEqual([
      'KLMS',
      'HEUN',
      'DPM_2',
      'DPM_2_ANCESTRAL',
      'DPM_PLUS_PLUS_SDE_KARRAS',
    ])
  })
})

test('runs keep their own history', () => {
  const shape = [1, 4, 2, 3]
  const make = () => createScheduler('DPM_SOLVER_MULTISTEP', sdxl, 4)
  const outputs = [1, 2, 3, 4].map((seed) => new TorchGenerator(seed).randn(shape).data)
  const start = new TorchGenerator(9).randn(shape).data
  const noise = () => start
  const alone = make()
  const [a, b] = [make(), make()]
  const [x, y, z] = [start.slice(), start.slice(), start.slice()]
  for (const [index, output] of outputs.entries()) {
    alone.step(output, index, x, noise)
    a.step(output, index, y, noise)
    b.step(outputs[3 - index], index, z, noise)
  }
  expect(y).toEqual(x)
  expect(z).not.toEqual(x)
  expect(() => alone.step(outputs[0], 2, x, noise)).toThrow('evaluation 2 was called instead of 4')
})
