// The noise schedule that the network was trained with: betas, the cumulative products of 1 − beta, and sigmas. Rounding
// follows torch in fp32, because rescaling to zero terminal SNR subtracts nearly equal numbers. What stays different is
// torch's square root, which comes from a vector library and is off by one bit now and then.
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'

const { fround } = Math

/** ᾱ of every training timestep, fp32, falling from about 1; exactly 0 at the end with zero terminal SNR. */
export function alphasCumprod(config: SchedulerConfig): Float32Array {
  const alphas = betas(config).map((beta) => 1 - beta)
  const products = cumulativeProduct(alphas)
  return config.rescaleBetasZeroSnr ? rescaleZeroTerminalSnr(products) : products
}

/** σ = √((1 − ᾱ) / ᾱ) of every training timestep, fp32, rising; finite also with zero terminal SNR. */
export function trainingSigmas(config: SchedulerConfig): Float32Array {
  const sigmas = alphasCumprod(config).map((alpha) => Math.sqrt(fround(fround(1 - alpha) / alpha)))
  // The reference takes the smallest fp16 number, 2⁻²⁴, for an ᾱ of 0. Its σ is 4096, where rounding to nearest would say
  // one bit less; a run that starts there subtracts multiples of it until about 1 is left, so that bit is seen at the end.
  if (config.rescaleBetasZeroSnr) sigmas[sigmas.length - 1] = 4096
  return sigmas
}

/** The noise level at which a run ends: 0, or the smallest of the training where the model says so. */
export function finalSigma(config: SchedulerConfig): number {
  return config.finalSigmasType === 'zero' ? 0 : trainingSigmas(config)[0]
}

/** σ at a fractional timestep, between its neighbours in a straight line; the ends extend outward. */
export function sigmaAt(sigmas: Float32Array, timestep: number): number {
  const last = sigmas.length - 1
  const below = Math.min(Math.max(Math.floor(timestep), 0), last)
  const low = sigmas[below]
  if (below === last || timestep <= below) return low
  return (sigmas[below + 1] - low) * (timestep - below) + low
}

function betas(config: SchedulerConfig): Float32Array {
  const { betaStart, betaEnd, numTrainTimesteps } = config
  switch (config.betaSchedule) {
    case 'linear':
      return linspace32(betaStart, betaEnd, numTrainTimesteps)
    case 'scaled_linear':
      return linspace32(Math.sqrt(betaStart), Math.sqrt(betaEnd), numTrainTimesteps).map((root) => root * root)
    default:
      return config.betaSchedule satisfies never
  }
}

/** torch.linspace: the first half counted from the start, the second from the end, in fused fp32. */
function linspace32(start: number, end: number, count: number): Float32Array {
  const from = fround(start)
  const to = fround(end)
  const step = fround(fround(to - from) / (count - 1))
  const half = Math.floor(count / 2)
  return Float32Array.from({ length: count }, (_, i) => (i < half ? from + step * i : to - step * (count - 1 - i)))
}

/** torch.cumprod: products in double, stored as fp32. */
function cumulativeProduct(factors: Float32Array): Float32Array {
  let product = 1
  return factors.map((factor) => (product *= factor))
}

/** Algorithm 1 of "Common Diffusion Noise Schedules and Sample Steps are Flawed" (arXiv 2305.08891), fp32. */
function rescaleZeroTerminalSnr(products: Float32Array): Float32Array {
  const roots = products.map((product) => Math.sqrt(product))
  const first = roots[0]
  const last = roots[roots.length - 1]
  const scale = fround(first / fround(first - last))
  const alphasBar = roots.map((root) => {
    const scaled = fround(fround(root - last) * scale)
    return scaled * scaled
  })
  // Back to betas and forward again, as the reference does: the detour rounds.
  const ratios = alphasBar.map((alphaBar, i) => (i === 0 ? alphaBar : alphaBar / alphasBar[i - 1]))
  const betas = ratios.map((ratio) => 1 - ratio)
  return cumulativeProduct(betas.map((beta) => 1 - beta))
}
