// Sampling loops against diffusers' schedulers (tools/reference/schedulers.py).
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { samplerNames, samplers, type SamplerName } from '#diffusion/samplers.ts'
import { createScheduler } from '#diffusion/schedulers/create-scheduler.ts'
import { alphasCumprod } from '#diffusion/schedulers/noise-schedule.ts'
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { schedulerConfigOf, sdxlSchedulerConfig as sdxl } from '#engine/weights/scheduler-options.ts'
import { TorchGenerator } from '#tensor/random.ts'

type Changes = Record<string, unknown>
type Loop = {
  sampler: SamplerName
  config: Changes
  steps: number
  network: 'input' | 'random'
  begin: number
  /** fp32 in base64, like the other arrays. */
  timesteps?: string
  initNoiseSigma?: number
  /** Where a run from the middle starts. */
  noisy?: string
  middle: string
  latents: string
}
const golden = JSON.parse(readFileSync('test/golden/schedulers/loops.json', 'utf8')) as {
  shape: number[]
  pictureSeed: number
  networkSeed: number
  originalSeed: number
  noiseSchedules: { config: Changes; sha256: string | null; timesteps: number[]; alphasCumprod: number[] }[]
  timesteps: { sampler: SamplerName; spacing: SchedulerConfig['timestepSpacing']; steps: number; sha256: string }[]
  cases: Loop[]
}

const unpacked = (text: string) => new Float32Array(Uint8Array.from(Buffer.from(text, 'base64')).buffer)

/** The fixture spells options as scheduler_config.json does. */
function changed(changes: Changes): SchedulerConfig {
  return schedulerConfigOf({ file: 'scheduler_config.json', values: changes })
}

function sha256(values: Iterable<number>): string {
  return createHash('sha256')
    .update(new Uint8Array(Float32Array.from(values).buffer))
    .digest('hex')
}

/** Largest difference, relative to the largest reference value. */
function relativeError(actual: Float32Array, expected: Float32Array): number {
  const largest = Math.max(...expected.map(Math.abs))
  return Math.max(...expected.map((value, i) => Math.abs(actual[i] - value))) / (largest || 1)
}

function run(loop: Loop): { first: Float32Array; middle: Float32Array; latents: Float32Array } {
  const scheduler = createScheduler(loop.sampler, changed(loop.config), loop.steps, loop.begin)
  const picture = new TorchGenerator(golden.pictureSeed)
  const network = new TorchGenerator(golden.networkSeed)
  const latents = picture.randn(golden.shape).data
  if (loop.begin === 0) latents.forEach((value, i) => (latents[i] = value * scheduler.initNoiseSigma))
  else
    scheduler.addNoise(
      new TorchGenerator(golden.originalSeed).randn(golden.shape).data,
      latents.slice(),
      loop.begin,
      latents,
    )
  const first = latents.slice()
  const fresh = new Float32Array(latents.length)
  const noise = () => picture.fillNormal(fresh)
  let middle = latents
  const output = new Float32Array(latents.length)
  const timesteps = scheduler.timesteps.slice(loop.begin)
  for (const [at, t] of timesteps.entries()) {
    const index = loop.begin + at
    scheduler.scaleModelInput(latents, index, output)
    if (loop.network === 'random') network.fillNormal(output)
    else for (const [i, value] of output.entries()) output[i] = Math.fround(value * t) / Math.fround(t + 1)
    scheduler.step(output, index, latents, noise)
    if (at === Math.floor((timesteps.length - 1) / 2)) middle = latents.slice()
  }
  return { first, middle, latents }
}

const overLambda: ReadonlySet<string> = new Set(['dpmSolverMultistep', 'dpmSolverSinglestep', 'uniPc'])

function toleranceOf({ sampler, config, steps }: Loop): number {
  // Near zero terminal SNR torch's square roots leave their mark.
  if (config['rescale_betas_zero_snr']) return 5e-6
  // The factor of a short step is e^−h − 1: a last bit of torch's exponential, which does not round to nearest, is up to
  // 2.4e-6 of it at 50 steps.
  return overLambda.has(samplers[sampler].algorithm) && steps >= 25 ? 3e-6 : 1e-6
}

/**
 * Methods whose timesteps come from logarithms, which numpy's and torch's vector libraries do not round to nearest; a last
 * bit of those is up to 2e-4 of a timestep.
 */
const byLogarithms: ReadonlySet<string> = new Set(['kdpm2', 'dpmSolverSde'])

describe("diffusers' loops", () => {
  const cases = golden.cases.map((loop) => ({ ...loop, options: JSON.stringify(loop.config) }))

  test.each(cases)('$sampler $options, $steps steps from $begin, $network network', (loop) => {
    const { middle, latents } = run(loop)
    const tolerance = toleranceOf(loop)
    expect(relativeError(middle, unpacked(loop.middle))).toBeLessThan(tolerance)
    expect(relativeError(latents, unpacked(loop.latents))).toBeLessThan(tolerance)
  })

  test.each(cases.filter(({ begin }) => begin > 0))('$sampler $options starts at $begin of $steps steps', (loop) => {
    expect(relativeError(run(loop).first, unpacked(loop.noisy!))).toBeLessThan(toleranceOf(loop))
  })

  test.each(cases.filter(({ begin }) => begin === 0))('$sampler $options, $steps steps: timesteps', (loop) => {
    const { timesteps, initNoiseSigma } = createScheduler(loop.sampler, changed(loop.config), loop.steps)
    const expected = Array.from(unpacked(loop.timesteps!))
    expect(timesteps).toHaveLength(expected.length)
    const slack = byLogarithms.has(samplers[loop.sampler].algorithm) || loop.config['use_karras_sigmas'] ? 2.5e-4 : 0
    for (const [i, t] of expected.entries()) expect(Math.abs(timesteps[i] - t)).toBeLessThanOrEqual(slack)
    expect(Math.abs(initNoiseSigma / loop.initNoiseSigma! - 1)).toBeLessThan(2 ** -22)
  })

  test('the fixture holds every sampler, or its twin of another price', () => {
    const algorithmOf = (name: SamplerName) => JSON.stringify({ ...samplers[name], premium: null })
    const held = new Set(golden.cases.map(({ sampler }) => algorithmOf(sampler)))
    expect(new Set(samplerNames.map(algorithmOf))).toEqual(held)
    expect(held.size).toBe(19)
  })
})

test.each(golden.timesteps)(
  'timesteps of 1 to $steps steps: $sampler, $spacing',
  ({ sampler, spacing, steps, sha256: expected }) => {
    const config = { ...sdxl, timestepSpacing: spacing }
    const all = Array.from({ length: steps }, (_, i) => createScheduler(sampler, config, i + 1).timesteps)
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
