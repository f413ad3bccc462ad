import { expect, test } from 'vitest'
import { createScheduler } from '#diffusion/schedulers/create-scheduler.ts'
import { sdxlSchedulerConfig } from '#engine/weights/scheduler-options.ts'
import { TorchGenerator } from '#tensor/random.ts'

test('the Brownian motion of DPM_PLUS_PLUS_SDE_KARRAS: a step contains its first half, steps are independent', () => {
  const length = 1 << 16
  const scheduler = createScheduler('DPM_PLUS_PLUS_SDE_KARRAS', sdxlSchedulerConfig, 8)
  const generator = new TorchGenerator(11)
  const fresh = new Float32Array(length)
  const zeros = new Float32Array(length)
  const latents = new Float32Array(length)
  const noises: Float32Array[] = []
  const draws: Float32Array[] = []
  const noise = () => {
    generator.fillNormal(fresh)
    draws.push(fresh.slice())
    return fresh
  }
  for (let index = 0; index < 4; index++) {
    // With zeros for sample and output, x₀ is the sample, so a step is a multiple of the sample plus its noise.
    latents.fill(0)
    scheduler.step(zeros, index, latents, noise)
    noises.push(normalised(latents))
  }
  const correlation = (a: Float32Array, b: Float32Array) => a.reduce((sum, value, i) => sum + value * b[i], 0) / length
  for (const values of noises) expect(Math.abs(correlation(values, values) - 1)).toBeLessThan(1e-5)
  // The first evaluation's noise is the draw itself; the second's is what the two draws give together.
  expect(correlation(noises[0], normalised(draws[0]))).toBeCloseTo(1, 5)
  const shared = correlation(noises[0], noises[1])
  const rest = correlation(noises[1], normalised(draws[1]))
  expect(shared ** 2 + rest ** 2).toBeCloseTo(1, 1)
  // √(share of the step before its middle), for the step 14.6 → next in Karras's levels.
  expect(shared).toBeGreaterThan(0.6)
  expect(shared).toBeLessThan(0.9)
  expect(Math.abs(correlation(noises[1], noises[2]))).toBeLessThan(0.02)
  expect(Math.abs(correlation(noises[1], noises[3]))).toBeLessThan(0.02)
})

function normalised(values: Float32Array): Float32Array {
  const deviation = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length)
  return values.map((value) => value / deviation)
}
