// Euler's method with fresh noise after every step: ancestral sampling (k-diffusion's sample_euler_ancestral, η = 1).
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { eulerStep } from './euler.ts'
import { originalFromSigma } from './predicted-original.ts'
import { runBuffer } from './run-buffer.ts'
import type { Scheduler } from './scheduler.ts'
import { sigmaLevels, sigmaRun } from './sigma-run.ts'

const { fround } = Math

/** An ancestral Euler run of `steps` steps, which draws noise at each. Throws bad_argument when the model cannot give it. */
export function eulerAncestral(config: SchedulerConfig, steps: number): Scheduler {
  const levels = sigmaLevels(config, steps, { karrasSigmas: false })
  const originals = runBuffer()
  return {
    ...sigmaRun(levels),
    step(modelOutput, index, sample, noise) {
      const sigma = levels.sigmas[index]
      const { down, up } = ancestralStep(sigma, levels.sigmas[index + 1])
      const original = originals(sample.length)
      originalFromSigma(config.predictionType, sigma, sample, modelOutput, original)
      eulerStep(sample, original, sigma, down)
      // Drawn at the last step too, where `up` is 0, so that the stream moves on as the reference's does.
      addFreshNoise(sample, noise(), up)
    },
  }
}

/** Adds `deviation` times unit noise to `sample` in place. */
export function addFreshNoise(sample: Float32Array, fresh: Float32Array, deviation: number): void {
  for (let i = 0; i < sample.length; i++) sample[i] += fround(fresh[i] * deviation)
}

/** How far to denoise (`down`) and how much noise to add (`up`) to arrive at `to`: down² + up² = to². */
export function ancestralStep(from: number, to: number): { readonly down: number; readonly up: number } {
  const fromSquare = fround(from * from)
  const toSquare = fround(to * to)
  const up = fround(Math.sqrt(fround(fround(toSquare * fround(fromSquare - toSquare)) / fromSquare)))
  const down = fround(Math.sqrt(fround(toSquare - fround(up * up))))
  return { down, up }
}
