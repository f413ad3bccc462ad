// DPM-Solver++ (SDE) of second order (k-diffusion's sample_dpmpp_sde): two ancestral steps of exponential integration, to
// the middle in log σ and over the whole, driven by one Brownian motion over σ.
//
// The reference draws that motion from a tree of its own random stream. Ours takes the increments from the picture's
// stream: over σ → middle √(σ − middle)·z₁, over middle → next √(middle − next)·z₂ with independent unit normal z. So the
// increment over the whole step contains the first half's, and steps are independent, as a Brownian motion's are.
import type { SchedulerConfig } from '#engine/weights/checkpoint.ts'
import { ancestralStep } from './euler-ancestral.ts'
import { eulerStep } from './euler.ts'
import { timestepOfSigma } from './karras-sigmas.ts'
import { originalFromSigma } from './predicted-original.ts'
import { runBuffer } from './run-buffer.ts'
import type { Scheduler } from './scheduler.ts'
import { addSigmaNoise, scaleBySigma, sigmaLevels } from './sigma-run.ts'

const { fround } = Math

/** A run of `steps` steps, two evaluations each but the last. Throws bad_argument when the model's schedule cannot give them. */
export function dpmSolverSde(
  config: SchedulerConfig,
  steps: number,
  options: { readonly karrasSigmas: boolean },
): Scheduler {
  const levels = sigmaLevels(config, steps, { ...options, double: true })
  const { sigmas, exact, initNoiseSigma } = levels
  const timesteps = levels.timesteps.flatMap((timestep, step) => {
    if (step === steps - 1) return [timestep]
    const middle = Math.exp((Math.log(exact[step]) + Math.log(exact[step + 1])) / 2)
    return [timestep, fround(timestepOfSigma(middle, levels.training))]
  })
  const [originals, starts, motions] = [runBuffer(), runBuffer(), runBuffer()]
  /** −ln σ, in which a step is halved. */
  const timeOf = (sigma: number): number => -fround(Math.log(sigma))
  const sigmaOfTime = (time: number): number => fround(Math.exp(-time))
  const middleOf = (step: number): number => {
    const [time, nextTime] = [timeOf(sigmas[step]), timeOf(sigmas[step + 1])]
    return sigmaOfTime(fround(time + fround(fround(nextTime - time) * 0.5)))
  }
  /** The noise level at which the network is asked. */
  const sigmaOf = (index: number): number => (index % 2 === 0 ? sigmas[index / 2] : middleOf((index - 1) / 2))

  return {
    timesteps,
    order: 2,
    initNoiseSigma,
    scaleModelInput: (sample, index, out) => scaleBySigma(sample, sigmaOf(index), out),
    addNoise: (original, noise, index, out) => addSigmaNoise(original, noise, sigmas[Math.ceil(index / 2)], out),
    step(modelOutput, index, sample, noise) {
      const step = Math.floor(index / 2)
      const original = originals(sample.length)
      originalFromSigma(config.predictionType, sigmaOf(index), sample, modelOutput, original)
      if (sigmas[step + 1] === 0) return eulerStep(sample, original, sigmas[step], 0)

      const first = index % 2 === 0
      const start = starts(sample.length)
      if (first) start.set(sample)
      const time = timeOf(sigmas[step])
      const from = sigmaOfTime(time)
      const middle = middleOf(step)
      const next = sigmaOfTime(timeOf(sigmas[step + 1]))
      const to = first ? middle : next
      const { down, up } = ancestralStep(from, to)
      const downTime = timeOf(down)
      const keep = fround(sigmaOfTime(downTime) / from)
      const move = fround(Math.expm1(fround(time - downTime)))
      const deviation = Math.min(to, up)
      const fresh = noise()
      const motion = motions(sample.length)
      if (first) motion.set(fresh)
      else {
        const [firstShare, secondShare] = [(from - middle) / (from - next), (middle - next) / (from - next)]
        const [a, b] = [fround(Math.sqrt(firstShare)), fround(Math.sqrt(secondShare))]
        for (let i = 0; i < fresh.length; i++) motion[i] = fround(a * motion[i]) + fround(b * fresh[i])
      }
      for (let i = 0; i < sample.length; i++) {
        const moved = fround(fround(keep * start[i]) - fround(move * original[i]))
        sample[i] = moved + fround(motion[i] * deviation)
      }
    },
  }
}
