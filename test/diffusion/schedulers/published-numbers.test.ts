// The numbers that diffusers' own tests of its schedulers state: ten steps over a fixed sample of shape (4, 3, 8, 8) with
// a network that answers x·t/(t + 1); sums or means of absolute values. Two tests there use options that no sampler of
// ours has: Runge-Kutta steps in PNDM (198.1318) and a last step of second order in DPM-Solver++ (0.3301). For those the
// numbers are the same classes' with skip_prk_steps and lower_order_final, computed by the reference.
import { expect, test } from 'vitest'
import type { SamplerName } from '#diffusion/samplers.ts'
import { createScheduler } from '#diffusion/schedulers/create-scheduler.ts'
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { sdxlSchedulerConfig } from '#engine/weights/scheduler-options.ts'

const linear = {
  ...sdxlSchedulerConfig,
  betaSchedule: 'linear',
  betaStart: 0.0001,
  betaEnd: 0.02,
  stepsOffset: 0,
  timestepSpacing: 'linspace',
} as const satisfies SchedulerConfig

/** 0, 1/768 … 767/768 with the batch's index running fastest. */
function fixedSample(): Float32Array {
  const count = 4 * 3 * 8 * 8
  const rest = count / 4
  return Float32Array.from({ length: count }, (_, i) => ((i % rest) * 4 + Math.floor(i / rest)) / count)
}

/** The tests write the network's scaled input over the sample and step from there, so do these. */
function sumAfterTenSteps(sampler: SamplerName, config: SchedulerConfig): number {
  const scheduler = createScheduler(sampler, config, 10)
  const sample = fixedSample().map((value) => value * scheduler.initNoiseSigma)
  const output = sample.slice()
  for (const [index, t] of scheduler.timesteps.entries()) {
    scheduler.scaleModelInput(sample, index, sample)
    for (const [i, value] of sample.entries()) output[i] = Math.fround(value * t) / Math.fround(t + 1)
    scheduler.step(output, index, sample, () => {
      throw new Error('no noise is drawn here')
    })
  }
  return sample.reduce((sum, value) => sum + Math.abs(value), 0)
}

const ddim = { ...linear, clipSampleRange: 1, setAlphaToOne: true, timestepSpacing: 'leading' } as const
const toSigmaMin = { ...linear, finalSigmasType: 'sigma_min' } as const
const kDiffusion = { ...linear, numTrainTimesteps: 1100 }

test.each<[SamplerName, SchedulerConfig, number]>([
  ['DDIM', ddim, 172.0067],
  ['HEUN', kDiffusion, 0.1233],
  ['DPM_2', kDiffusion, 20.4125],
  ['LMS', kDiffusion, 1006.388],
])('%s: sum', (sampler, config, sum) => {
  const decimals = String(sum).split('.')[1].length
  expect(sumAfterTenSteps(sampler, config)).toBeCloseTo(sum, decimals - 1)
})

test.each<[SamplerName, SchedulerConfig, number]>([
  ['DPM_SOLVER_MULTISTEP', toSigmaMin, 0.2442],
  ['PNDM', { ...linear, timestepSpacing: 'leading' }, 0.2574],
  ['DPM_SINGLE', toSigmaMin, 0.2791],
  ['UNI_PC', toSigmaMin, 0.2464],
])('%s: mean', (sampler, config, mean) => {
  expect(sumAfterTenSteps(sampler, config) / 768).toBeCloseTo(mean, 4)
})
