import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { readJson } from '#engine/weights/json-file.ts'
import { schedulerConfigOf, sdxlSchedulerConfig } from '#engine/weights/scheduler-options.ts'
import { temporaryFolder } from '../../support/temporary-folder.ts'

const read = (values: Record<string, unknown>) => schedulerConfigOf({ file: 'scheduler_config.json', values })

test('what changes numbers is read, in the words of every class', () => {
  expect(read({})).toEqual(sdxlSchedulerConfig)
  expect(
    read({
      _class_name: 'DPMSolverMultistepScheduler',
      use_karras_sigmas: true,
      final_sigmas_type: 'sigma_min',
      clip_sample: true,
      clip_sample_range: 2.5,
      timestep_spacing: 'linspace',
      solver_order: 3,
    }),
  ).toEqual({
    ...sdxlSchedulerConfig,
    useKarrasSigmas: true,
    finalSigmasType: 'sigma_min',
    clipSampleRange: 2.5,
    timestepSpacing: 'linspace',
  })
  expect(read({ clip_sample: true }).clipSampleRange).toBe(1)
  expect(read({ clip_sample: false, clip_sample_range: 3 }).clipSampleRange).toBeNull()
})

describe('what is not supported is refused by name', () => {
  test.each<[Record<string, unknown>, string]>([
    [{ thresholding: true }, 'thresholding true is not supported (supported: false)'],
    [{ use_exponential_sigmas: true }, 'use_exponential_sigmas true'],
    [{ use_beta_sigmas: true }, 'use_beta_sigmas true'],
    [{ use_lu_lambdas: true }, 'use_lu_lambdas true'],
    [{ use_flow_sigmas: true }, 'use_flow_sigmas true'],
    [{ sigma_min: 0.002 }, 'sigma_min 0.002 is not supported (supported: null)'],
    [{ trained_betas: [0.1] }, 'trained_betas [0.1]'],
    [{ variance_type: 'learned_range' }, 'variance_type "learned_range"'],
    [{ lambda_min_clipped: -5.1 }, 'lambda_min_clipped -5.1 is not supported (supported: -Infinity)'],
    [{ interpolation_type: 'log_linear' }, 'interpolation_type "log_linear" is not supported (supported: linear)'],
    [{ timestep_type: 'continuous' }, 'timestep_type "continuous"'],
    [{ final_sigmas_type: 'one' }, 'final_sigmas_type "one" is not supported (supported: zero, sigma_min)'],
    [{ _class_name: 'EDMEulerScheduler' }, '_class_name "EDMEulerScheduler"'],
  ])('%j', (values, message) => {
    expect(() => read(values)).toThrow(message)
  })

  test('a range to clip to that is none', () => {
    expect(() => read({ clip_sample: true, clip_sample_range: 0 })).toThrow(
      'clip_sample_range is 0, expected a number above 0',
    )
  })
})

test("infinity in Python's spelling, as the DPM-Solver classes write it", async () => {
  const file = path.join(await temporaryFolder('scheduler-options'), 'scheduler_config.json')
  await writeFile(file, '{ "lambda_min_clipped": -Infinity, "note": "-Infinity \\" Infinity", "more": [Infinity] }')
  const values = await readJson(file)
  expect(values).toEqual({ lambda_min_clipped: -Infinity, note: '-Infinity " Infinity', more: [Infinity] })
  expect(read(values)).toEqual(sdxlSchedulerConfig)
  await writeFile(file, '{ "lambda_min_clipped": -infinity }')
  await expect(readJson(file)).rejects.toMatchObject({ code: 'bad_file' })
})
