// "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models" (arXiv 2302.04867) of order 2 with
// B₂(h) = e^h − 1, predicting x₀: Algorithms 5 (corrector) and 6 (predictor) there. The corrector needs no evaluation of
// its own, it uses the next step's.
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { originalFromAlphaSigma } from './predicted-original.ts'
import { runBuffer } from './run-buffer.ts'
import type { Scheduler } from './scheduler.ts'
import { solverRun, type NoiseLevel } from './solver-run.ts'

const { fround } = Math

/** A run of `steps` steps from evaluation `begin` on. Throws bad_argument when the model's schedule cannot give them. */
export function uniPc(
  config: SchedulerConfig,
  steps: number,
  begin: number,
  options: { readonly karrasSigmas: boolean },
): Scheduler {
  const { levels, ...run } = solverRun(config, steps, options)
  /** x₀ as seen at this step and at the two before. */
  const views = [runBuffer(), runBuffer(), runBuffer()]
  const starts = runBuffer()
  /** The predictor's order: 1 without history, and at the end, where there is no noise to look ahead to. */
  const orderOf = (index: number): 1 | 2 => (index === begin || index === steps - 1 ? 1 : 2)

  return {
    ...run,
    step(modelOutput, index, sample) {
      const view = (age: number): Float32Array => views[(index - age + 3) % 3](sample.length)
      const here = levels[index]
      const original = view(0)
      originalFromAlphaSigma(config.predictionType, here.alpha, here.sigma, sample, modelOutput, original)
      const start = starts(sample.length)
      if (index > begin) {
        sample.set(start)
        correct(sample, levels.slice(Math.max(index - 2, 0), index + 1), orderOf(index - 1), original, view(1), view(2))
      }
      start.set(sample)
      predict(sample, levels.slice(Math.max(index - 1, 0), index + 2), orderOf(index), original, view(1))
    },
  }
}

/** The factors of a step from one noise level to the next. */
function factorsOf(from: NoiseLevel, to: NoiseLevel) {
  const h = fround(to.lambda - from.lambda)
  const phi = fround(Math.expm1(-h))
  return { h, phi, keep: fround(to.sigma / from.sigma), move: fround(to.alpha * phi) }
}

/** Moves `sample` in place to the last of `levels` from the one before. */
function predict(
  sample: Float32Array,
  levels: readonly NoiseLevel[],
  order: 1 | 2,
  original: Float32Array,
  earlier: Float32Array,
): void {
  const [from, to] = levels.slice(-2)
  const { h, keep, move } = factorsOf(from, to)
  for (let i = 0; i < sample.length; i++) sample[i] = fround(keep * sample[i]) - fround(move * original[i])
  if (order === 1) return
  const ratio = fround(fround(levels[0].lambda - from.lambda) / h)
  for (let i = 0; i < sample.length; i++) {
    const slope = fround(fround(earlier[i] - original[i]) / ratio)
    sample[i] -= fround(move * fround(0.5 * slope))
  }
}

/** Takes the step again from `sample`, its start, in place, now with the view of the picture at its end. */
function correct(
  sample: Float32Array,
  levels: readonly NoiseLevel[],
  order: 1 | 2,
  atEnd: Float32Array,
  atStart: Float32Array,
  earlier: Float32Array,
): void {
  const [from, to] = levels.slice(-2)
  const { h, phi, keep, move } = factorsOf(from, to)
  for (let i = 0; i < sample.length; i++) sample[i] = fround(keep * sample[i]) - fround(move * atStart[i])
  if (order === 1) {
    for (let i = 0; i < sample.length; i++) sample[i] -= fround(move * fround(0.5 * fround(atEnd[i] - atStart[i])))
    return
  }
  const ratio = fround(fround(levels[0].lambda - from.lambda) / h)
  const [earlierWeight, endWeight] = correctorWeights(ratio, h, phi)
  for (let i = 0; i < sample.length; i++) {
    const slope = fround(fround(earlier[i] - atStart[i]) / ratio)
    const change = fround(endWeight * fround(atEnd[i] - atStart[i]))
    sample[i] -= fround(move * fround(fround(earlierWeight * slope) + change))
  }
}

/** The weights a₁, a₂ with a₁ + a₂ = b₁ and r·a₁ + a₂ = b₂ (equation 9 of the paper). */
function correctorWeights(ratio: number, h: number, phi: number): readonly [earlier: number, end: number] {
  const hh = -h
  const phi2 = fround(fround(phi / hh) - 1)
  const b1 = fround(phi2 / phi)
  const phi3 = fround(fround(phi2 / hh) - 0.5)
  const b2 = fround(fround(phi3 * 2) / phi)
  const earlier = (b1 - b2) / (1 - ratio)
  return [fround(earlier), fround(b1 - earlier)]
}
