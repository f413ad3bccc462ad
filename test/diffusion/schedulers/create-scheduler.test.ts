import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { samplerNames, type SamplerName } from '#diffusion/samplers.ts'
import { createScheduler } from '#diffusion/schedulers/create-scheduler.ts'
import { alphasCumprod } from '#diffusion/schedulers/noise-schedule.ts'
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { TorchGenerator } from '#tensor/random.ts'

const sdxl: SchedulerConfig = {
  numTrainTimesteps: 1000,
  betaStart: 0.00085,
  betaEnd: 0.012,
  betaSchedule: 'scaled_linear',
  predictionType: 'epsilon',
  timestepSpacing: 'leading',
  stepsOffset: 1,
  setAlphaToOne: false,
  rescaleBetasZeroSnr: false,
}

type Changes = Record<string, unknown>
type Loop = {
  sampler: SamplerName
  config: Changes
  steps: number
  network: 'input' | 'random'
  timesteps: number[]
  initNoiseSigma: number
  middle: number[]
  latents: number[]
}
const golden = JSON.parse(readFileSync('test/golden/schedulers/loops.json', 'utf8')) as {
  shape: number[]
  pictureSeed: number
  networkSeed: number
  noiseSchedules: { config: Changes; sha256: string | null; timesteps: number[]; alphasCumprod: number[] }[]
  timesteps: { sampler: SamplerName; spacing: SchedulerConfig['timestepSpacing']; sha256: string }[]
  cases: Loop[]
}

/** The fixture spells options as scheduler_config.json does. */
function changed(changes: Changes): SchedulerConfig {
  const camel = (name: string) => name.replaceAll(/_(\w)/g, (_, letter: string) => letter.toUpperCase())
  const options = Object.fromEntries(Object.entries(changes).map(([name, value]) => [camel(name), value]))
  for (const name of Object.keys(options)) expect(sdxl).toHaveProperty(name)
  return { ...sdxl, ...options }
}

function sha256(values: Iterable<number>): string {
  return createHash('sha256')
    .update(new Uint8Array(Float32Array.from(values).buffer))
    .digest('hex')
}

/** Largest difference, relative to the largest reference value. */
function relativeError(actual: Float32Array, expected: readonly number[]): number {
  const largest = Math.max(...expected.map(Math.abs))
  return Math.max(...expected.map((value, i) => Math.abs(actual[i] - value))) / (largest || 1)
}

function run(loop: Loop): { middle: Float32Array; latents: Float32Array } {
  const scheduler = createScheduler(loop.sampler, changed(loop.config), loop.steps)
  expect(scheduler.timesteps).toEqual(loop.timesteps.map(Math.fround))
  expect(Math.abs(scheduler.initNoiseSigma / loop.initNoiseSigma - 1)).toBeLessThan(2 ** -22)
  const picture = new TorchGenerator(golden.pictureSeed)
  const network = new TorchGenerator(golden.networkSeed)
  const latents = picture.randn(golden.shape).data.map((value) => value * scheduler.initNoiseSigma)
  const noise = () => picture.randn(golden.shape).data
  let middle = latents
  const output = new Float32Array(latents.length)
  for (const [index, t] of scheduler.timesteps.entries()) {
    scheduler.scaleModelInput(latents, index, output)
    if (loop.network === 'random') network.fillNormal(output)
    else for (const [i, value] of output.entries()) output[i] = Math.fround(value * t) / Math.fround(t + 1)
    scheduler.step(output, index, latents, noise)
    if (index === Math.floor((loop.steps - 1) / 2)) middle = latents.slice()
  }
  return { middle, latents }
}

describe("diffusers' loops", () => {
  test.each(golden.cases.map((loop) => ({ ...loop, options: JSON.stringify(loop.config) })))(
    '$sampler $options, $steps steps, $network network',
    (loop) => {
      const { middle, latents } = run(loop)
      // Near zero terminal SNR torch's square roots leave their mark.
      const tolerance = loop.config['rescale_betas_zero_snr'] ? 5e-6 : 1e-6
      expect(relativeError(middle, loop.middle)).toBeLessThan(tolerance)
      expect(relativeError(latents, loop.latents)).toBeLessThan(tolerance)
    },
  )

  test('the fixture holds every sampler', () => {
    expect(new Set(golden.cases.map(({ sampler }) => sampler))).toEqual(new Set(samplerNames))
  })
})

test.each(golden.timesteps)(
  'timesteps of 1 to 200 steps: $sampler, $spacing',
  ({ sampler, spacing, sha256: expected }) => {
    const config = { ...sdxl, timestepSpacing: spacing }
    const all = Array.from({ length: 200 }, (_, i) => createScheduler(sampler, config, i + 1).timesteps)
    expect(sha256(all.flat())).toBe(expected)
  },
)

test.each(golden.noiseSchedules)(
  'alphas of $config',
  ({ config, sha256: expected, timesteps, alphasCumprod: picked }) => {
    const alphas = alphasCumprod(changed(config))
    // Null where torch's roots come in, which no other arithmetic repeats to the last bit.
    expect(expected === null ? null : sha256(alphas)).toBe(expected)
    // Rescaling subtracts neighbours that differ by 1 in 200, so the last bits of torch's roots grow.
    const tolerance = expected === null ? 1e-5 : 0
    for (const [i, timestep] of timesteps.entries())
      expect(Math.abs(alphas[timestep] - Math.fround(picked[i]))).toBeLessThanOrEqual(tolerance * picked[i])
  },
)

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
        message: `steps: ${steps} is not a whole number in 1..200 (sampler ${sampler})`,
      })
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

  test('epsilon where nothing of the picture is left', () => {
    const changes = { rescaleBetasZeroSnr: true, timestepSpacing: 'trailing' } as const
    expect(refused('DDIM', changes, 10)).toMatchObject({ code: 'bad_argument' })
  })

  test('an ancestral sampler for a model that predicts the sample', () => {
    expect(refused('K_EULER_ANCESTRAL', { predictionType: 'sample' }, 10)).toMatchObject({ code: 'bad_argument' })
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
