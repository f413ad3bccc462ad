// torch's CPU random stream, so that a seed gives the same latents as the reference does. Below the generator lies the
// arithmetic of torch's AVX2 kernel: single precision, Cephes' polynomials, multiply-adds fused where its compiler fuses
// them. It is repeated here operation by operation, because Math.log and Math.cos differ from it in the last bits.
import { AppError } from '../errors.ts'
import { zeros, type Tensor } from './tensor.ts'

const stateSize = 624
const shiftSize = 397
/** torch fills blocks of 16 values at once; shorter tensors take another path. */
const blockSize = 16

/** The random numbers of `torch.Generator('cpu').manual_seed(seed)`: every call continues the stream. */
export class TorchGenerator {
  readonly #state = new Uint32Array(stateSize)
  #position = stateSize
  /** The sine half of the last Box–Muller pair of the short path, kept across calls as torch keeps it. */
  #cachedNormal: number | null = null

  /** `seed` is an integer, 0..2⁶⁴ − 1, of which torch's engine uses the low 32 bits. Throws bad_argument otherwise. */
  constructor(seed: number | bigint) {
    if (typeof seed === 'number' && !Number.isSafeInteger(seed)) throw badSeed(seed)
    const wide = BigInt(seed)
    if (wide < 0n || wide >= 1n << 64n) throw badSeed(seed)
    this.#state[0] = Number(wide & 0xffffffffn)
    for (let i = 1; i < stateSize; i++) {
      const previous = this.#state[i - 1]
      this.#state[i] = Math.imul(1812433253, previous ^ (previous >>> 30)) + i
    }
  }

  /** Unit normal values of `shape` in row-major order, as `torch.randn(shape, generator=…)` draws them in fp32. */
  randn(shape: readonly number[]): Tensor {
    const result = zeros(shape)
    this.fillNormal(result.data)
    return result
  }

  /** The same into an array that is there, which is returned. */
  fillNormal(data: Float32Array): Float32Array {
    if (data.length < blockSize) for (let i = 0; i < data.length; i++) data[i] = this.#nextNormal()
    else this.#fillBlocks(data)
    return data
  }

  /** The next value of 0 ≤ u < 1, as `torch.rand` draws it in fp32. */
  uniform(): number {
    return this.#nextUniform24()
  }

  #fillBlocks(data: Float32Array): void {
    for (let i = 0; i < data.length; i++) data[i] = this.#nextUniform24()
    for (let i = 0; i + blockSize <= data.length; i += blockSize) uniformToNormal(data, i)
    if (data.length % blockSize === 0) return
    // torch draws the last 16 anew instead of treating the rest by itself.
    const tail = data.length - blockSize
    for (let i = tail; i < data.length; i++) data[i] = this.#nextUniform24()
    uniformToNormal(data, tail)
  }

  /** Box–Muller in double precision, two values a pair. */
  #nextNormal(): number {
    if (this.#cachedNormal !== null) {
      const value = this.#cachedNormal
      this.#cachedNormal = null
      return value
    }
    const angle = 2 * Math.PI * this.#nextUniform53()
    const radius = Math.sqrt(-2 * Math.log1p(-this.#nextUniform53()))
    this.#cachedNormal = radius * Math.sin(angle)
    return radius * Math.cos(angle)
  }

  #nextUniform24(): number {
    return (this.#next32() & 0xffffff) * 2 ** -24
  }

  #nextUniform53(): number {
    const high = this.#next32() & 0x1fffff
    return (high * 2 ** 32 + this.#next32()) * 2 ** -53
  }

  #next32(): number {
    if (this.#position === stateSize) this.#twist()
    let y = this.#state[this.#position++]
    y ^= y >>> 11
    y ^= (y << 7) & 0x9d2c5680
    y ^= (y << 15) & 0xefc60000
    return (y ^ (y >>> 18)) >>> 0
  }

  #twist(): void {
    const state = this.#state
    for (let i = 0; i < stateSize; i++) {
      const y = (state[i] & 0x80000000) | (state[(i + 1) % stateSize] & 0x7fffffff)
      state[i] = state[(i + shiftSize) % stateSize] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0)
    }
    this.#position = 0
  }
}

function badSeed(seed: number | bigint): AppError {
  return new AppError('bad_argument', `seed: ${seed} is not an integer in 0..${(1n << 64n) - 1n}`)
}

const { fround } = Math
const twoPi = fround(2 * Math.PI)

/** Box–Muller on the 16 uniform values from `start`: the first eight give radii, the last eight angles. */
function uniformToNormal(data: Float32Array, start: number): void {
  for (let i = start; i < start + 8; i++) {
    const radius = fround(Math.sqrt(fround(-2 * log32(fround(1 - data[i])))))
    const [sine, cosine] = sincos32(fround(twoPi * data[i + 8]))
    // Adding the mean, 0, turns −0 into 0.
    data[i] = fround(radius * cosine) + 0
    data[i + 8] = fround(radius * sine) + 0
  }
}

/** a·b + c rounded once to fp32. The product is exact in double; the sum rounds twice, which is felt once in 2²⁹. */
function fma32(a: number, b: number, c: number): number {
  return fround(a * b + c)
}

/** Coefficients as fp32, highest power first. */
function polynomial(coefficients: readonly number[]): Float32Array {
  return Float32Array.from(coefficients)
}

function evaluate(coefficients: Float32Array, x: number): number {
  let y = coefficients[0]
  for (let i = 1; i < coefficients.length; i++) y = fma32(y, x, coefficients[i])
  return y
}

// Cephes, single precision: logf, sinf and cosf (Stephen L. Moshier), as arranged for vectors by Pommier and Garberoglio.
const logCoefficients = polynomial([
  7.0376836292e-2, -1.151461031e-1, 1.167699874e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
  2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
])
const sinCoefficients = polynomial([-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1])
const cosCoefficients = polynomial([2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2])
const sqrtHalf = fround(Math.SQRT1_2)
/** ln 2 in two parts, the high one short enough to be exact when multiplied by an exponent. */
const ln2High = 0.693359375
const ln2Low = fround(-2.1219444e-4)
/** π/4 in three parts for the reduction of the argument. */
const quarterPi = polynomial([0.78515625, 2.4187564849853516e-4, 3.774894977445941e-8])
const fourOverPi = fround(4 / Math.PI)

const bits = new DataView(new ArrayBuffer(4))

/** ln x for a normal fp32 x > 0. */
function log32(x: number): number {
  bits.setFloat32(0, x)
  const word = bits.getInt32(0)
  let exponent = (word >> 23) - 126
  bits.setInt32(0, (word & 0x007fffff) | 0x3f000000)
  let fraction = bits.getFloat32(0) // 0.5 ≤ fraction < 1
  if (fraction < sqrtHalf) {
    exponent -= 1
    fraction = fround(fround(fraction - 1) + fraction)
  } else fraction = fround(fraction - 1)
  const square = fround(fraction * fraction)
  let y = fround(evaluate(logCoefficients, fraction) * fraction)
  y = fma32(y, square, fround(exponent * ln2Low))
  y = fma32(square, -0.5, y)
  return fma32(exponent, ln2High, fround(fraction + y))
}

/** Sine and cosine of an fp32 angle, 0 ≤ x < 8192. */
function sincos32(x: number): readonly [sine: number, cosine: number] {
  const octant = (Math.trunc(fround(x * fourOverPi)) + 1) & ~1
  let rest = x
  for (const part of quarterPi) rest = fma32(-octant, part, rest)
  const square = fround(rest * rest)
  const even = fround(evaluate(cosCoefficients, square) * square)
  const cosine = fround(fma32(even, square, fround(square * -0.5)) + 1)
  const sine = fma32(fround(evaluate(sinCoefficients, square) * square), rest, rest)
  const swapped = (octant & 2) !== 0
  return [(octant & 4 ? -1 : 1) * (swapped ? cosine : sine), ((octant + 2) & 4 ? -1 : 1) * (swapped ? sine : cosine)]
}
