// The steps of DPM-Solver++, "Fast Solver for Guided Sampling of Diffusion Probabilistic Models" (arXiv 2211.01095): first
// order is equation 9 there, second order with the midpoint rule Algorithms 1 (singlestep) and 2 (multistep); the
// stochastic ones are its SDE counterparts (equations 17 and 18). All in fp32, one rounding an operation.
import type { NoiseLevel } from './solver-run.ts'

const { fround } = Math

/** The network's view of the picture at the step's base, and where it is known a second one. */
export type Views = {
  /** x₀ at the noise level that the step starts from. */
  readonly original: Float32Array
  /** The direction in which x₀ changes: (later − earlier) · 1/r, with r as the share of the step between the two views. */
  readonly slope: { readonly later: Float32Array; readonly earlier: Float32Array; readonly ratio: number } | null
}

/** Moves `sample` in place from one noise level to another; with `fresh` unit noise by the stochastic equation. */
export function dpmSolverStep(
  sample: Float32Array,
  from: NoiseLevel,
  to: NoiseLevel,
  { original, slope }: Views,
  fresh: Float32Array | null,
): void {
  const h = fround(to.lambda - from.lambda)
  const ratio = fround(to.sigma / from.sigma)
  // The factor on x₀: −α(e^−h − 1), or α(1 − e^−2h) for the stochastic equation.
  const decay = fround(Math.exp(fround(-2 * h)))
  const keep = fresh ? fround(ratio * fround(Math.exp(-h))) : ratio
  const move = fresh ? fround(to.alpha * fround(1 - decay)) : -fround(to.alpha * fround(fround(Math.exp(-h)) - 1))
  for (let i = 0; i < sample.length; i++) sample[i] = fround(keep * sample[i]) + fround(move * original[i])
  if (slope) {
    const { later, earlier } = slope
    const steepness = fround(1 / slope.ratio)
    const halfMove = fround(0.5 * move)
    for (let i = 0; i < sample.length; i++)
      sample[i] += fround(halfMove * fround(steepness * fround(later[i] - earlier[i])))
  }
  if (!fresh) return
  const deviation = fround(to.sigma * fround(Math.sqrt(fround(1 - decay))))
  for (let i = 0; i < sample.length; i++) sample[i] += fround(deviation * fresh[i])
}
