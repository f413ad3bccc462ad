// The noise levels of "Elucidating the Design Space of Diffusion-Based Generative Models" (arXiv 2206.00364), equation 5,
// and the way back from a noise level to the timestep that the network was trained with.
import { linspace } from './timestep-spacing.ts'

const rho = 7

/** `count` noise levels falling from `sigmaMax` to `sigmaMin`, dense towards the end. */
export function karrasSigmas(sigmaMax: number, sigmaMin: number, count: number): number[] {
  const maxRoot = sigmaMax ** (1 / rho)
  const minRoot = sigmaMin ** (1 / rho)
  return linspace(0, 1, count).map((ramp) => (maxRoot + ramp * (minRoot - maxRoot)) ** rho)
}

/** The timestep, fractional, whose log σ is that of `sigma`; `sigmas` rise, one a training timestep, fp32. */
export function timestepOfSigma(sigma: number, sigmas: Float32Array): number {
  const target = Math.log(Math.max(sigma, 1e-10))
  const logSigma = (index: number) => Math.fround(Math.log(sigmas[index]))
  let low = 0
  while (low < sigmas.length - 2 && logSigma(low + 1) <= target) low++
  const span = Math.fround(logSigma(low) - logSigma(low + 1))
  const weight = Math.min(Math.max((logSigma(low) - target) / span, 0), 1)
  return (1 - weight) * low + weight * (low + 1)
}
