// Weights as 8-bit integers with one scale an output channel, symmetric: w ≈ scale · q, q in −limit..limit.
import { AppError } from '../../errors.ts'

/** Rounded weights in the order of the checkpoint, (out, …), and the scale of each output channel. */
export type RoundedWeights = { readonly values: Int8Array; readonly scales: Float32Array }

/**
 * Round the rows of a weight (out, in · kernel area). `multiplied` has one factor an input channel, each of which stands
 * for `kernelArea` neighbouring elements. A row of zeros has the scale 1. Throws `not_finite`.
 */
export function roundWeights(
  name: string,
  weight: Float32Array,
  { outputs, kernelArea, limit }: { outputs: number; kernelArea: number; limit: number },
  multiplied: Float32Array | null,
): RoundedWeights {
  const width = weight.length / outputs
  const factors = multiplied && repeatEach(multiplied, kernelArea)
  const values = new Int8Array(weight.length)
  const scales = new Float32Array(outputs)
  const row = new Float32Array(width)
  for (let output = 0; output < outputs; output++) {
    const start = output * width
    let largest = 0
    for (let i = 0; i < width; i++) {
      const value = factors ? weight[start + i] * factors[i] : weight[start + i]
      row[i] = value
      const size = Math.abs(value)
      if (!(size <= largest)) largest = size
      if (!(size < Infinity)) throw new AppError('not_finite', `weight "${name}" holds NaN or infinity`)
    }
    const scale = largest === 0 ? 1 : largest / limit
    scales[output] = scale
    const inverse = 1 / scales[output]
    for (let i = 0; i < width; i++) values[start + i] = clamp(Math.round(row[i] * inverse), limit)
  }
  return { values, scales }
}

/** What a rounded weight gives for an input of ones, for each output channel. */
export function rowSums({ values, scales }: RoundedWeights): Float32Array {
  const width = values.length / scales.length
  return scales.map((scale, output) => {
    let sum = 0
    for (let i = output * width; i < (output + 1) * width; i++) sum += values[i]
    return sum * scale
  })
}

/** Each row of a weight (out, in) times one vector (in). */
export function rowProducts(weight: Float32Array, vector: Float32Array): Float32Array {
  const products = new Float32Array(weight.length / vector.length)
  for (let row = 0; row < products.length; row++) {
    const start = row * vector.length
    let sum = 0
    for (let i = 0; i < vector.length; i++) sum += vector[i] * weight[start + i]
    products[row] = sum
  }
  return products
}

/**
 * A rounded weight (out, in, …kernel) as a right-hand matrix (kernel · in, out), the pixels of the kernel outermost, in
 * `parts` matrices one after the other, each with its share of the outputs.
 */
export function asColumns(
  values: Int8Array,
  { outputs, kernelArea, parts }: { outputs: number; kernelArea: number; parts: number },
): Int8Array {
  const width = values.length / outputs
  const inputs = width / kernelArea
  const share = outputs / parts
  const result = new Int8Array(values.length)
  // Tiles of outputs, so that neither side of the transposition jumps through memory for each element.
  const tile = 64
  for (let first = 0; first < outputs; first += tile) {
    const end = Math.min(first + tile, outputs)
    for (let input = 0; input < inputs; input++) {
      for (let pixel = 0; pixel < kernelArea; pixel++) {
        const from = input * kernelArea + pixel
        const row = pixel * inputs + input
        for (let output = first; output < end; output++) {
          const part = output < share ? 0 : Math.floor(output / share)
          result[part * width * share + row * share + (output - part * share)] = values[output * width + from]
        }
      }
    }
  }
  return result
}

function repeatEach(values: Float32Array, times: number): Float32Array {
  return Float32Array.from({ length: values.length * times }, (_, index) => values[Math.floor(index / times)])
}

function clamp(value: number, limit: number): number {
  return Math.max(-limit, Math.min(limit, value))
}
