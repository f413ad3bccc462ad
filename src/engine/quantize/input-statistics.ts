import type { Tensor } from '#tensor/tensor.ts'
import { AppError } from '../../errors.ts'
import type { ObservedInput } from './observe-inputs.ts'

/** What several evaluations showed of one layer input. */
export type InputStatistics = {
  readonly input: ObservedInput
  /** Smallest and largest value of each channel over all evaluations. */
  readonly minimum: Float32Array
  readonly maximum: Float32Array
  /** Rows or windows as the weight's rows lie, (count, channels · kernelArea). */
  readonly samples: Float32Array
  readonly count: number
}

/** Collects what evaluations show of a network's layer inputs. */
export class StatisticsCollector {
  readonly #inputs: readonly ObservedInput[]
  readonly #minimum: Float32Array[]
  readonly #maximum: Float32Array[]
  readonly #samples: Float32Array[][]

  constructor(inputs: readonly ObservedInput[]) {
    this.#inputs = inputs
    this.#minimum = inputs.map(({ channels }) => new Float32Array(channels).fill(Infinity))
    this.#maximum = inputs.map(({ channels }) => new Float32Array(channels).fill(-Infinity))
    this.#samples = inputs.map(() => [])
  }

  /** Take in the observed outputs of one evaluation. */
  add(outputs: Readonly<Record<string, Tensor>>): void {
    for (const [index, input] of this.#inputs.entries()) {
      const at = (name: string): Float32Array => {
        const found = outputs[name] as Tensor | undefined
        if (!found) throw new AppError('internal', `calibration: the network does not give ${name}`)
        return found.data
      }
      merge(this.#minimum[index], at(input.minimum), Math.min)
      merge(this.#maximum[index], at(input.maximum), Math.max)
      this.#samples[index].push(input.isMap ? windowRows(at(input.sample), input) : at(input.sample).slice())
    }
  }

  /** What was seen of one input after the other; each is let go of once it was given. */
  *drain(): Generator<InputStatistics> {
    for (const [index, input] of this.#inputs.entries()) {
      const parts = this.#samples[index]
      const count = parts.length * input.samples
      const samples = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0))
      let start = 0
      for (const part of parts) {
        samples.set(part, start)
        start += part.length
      }
      this.#samples[index] = []
      yield { input, minimum: this.#minimum[index], maximum: this.#maximum[index], samples, count }
    }
  }
}

function merge(into: Float32Array, values: Float32Array, choose: (a: number, b: number) => number): void {
  for (let i = 0; i < into.length; i++) into[i] = choose(into[i], values[i])
}

/** (C, samples · area) → (samples, C · area) */
function windowRows(data: Float32Array, { channels, kernelArea, samples }: ObservedInput): Float32Array {
  const rows = new Float32Array(data.length)
  for (let channel = 0; channel < channels; channel++)
    for (let sample = 0; sample < samples; sample++)
      for (let pixel = 0; pixel < kernelArea; pixel++)
        rows[(sample * channels + channel) * kernelArea + pixel] =
          data[(channel * samples + sample) * kernelArea + pixel]
  return rows
}
