// ΔW of every family, in fp32, as LyCORIS (arXiv 2309.14859) defines them: what is added to a weight at strength 1.
import type { Tensor } from '#tensor/tensor.ts'
import { AppError } from '../../../errors.ts'
import type { DoraMagnitude, LokrFactor, LoraModule, WeightChange } from './lora.ts'
import { readLoraTensor } from './lora-values.ts'
import { kronecker, matMul, transposed, tuckerProduct } from './matrix.ts'

type Sizes = { readonly out: number; readonly input: number; readonly kernel: number }

/** The distance of 1 to the next fp32: added to a length that is divided by. */
const fp32Epsilon = 2 ** -23

/**
 * What a module's weight `base` (fp32, of the target's shape) changes by at strength 1, in the order of the weight's
 * elements. Throws `not_finite` for NaN or infinity in the file.
 */
export async function weightDelta({ change, dora, target }: LoraModule, base: Float32Array): Promise<Float32Array> {
  if (change === null) throw new AppError('internal', `lora: ${target.path} has no change of its weight`)
  const [out, input = 1, ...kernel] = target.weightShape
  const sizes = { out, input, kernel: kernel.reduce((product, size) => product * size, 1) }
  const delta = await changeOf(change, sizes, base)
  return dora === null ? delta : await withLengths(delta, dora, sizes, base)
}

async function changeOf(change: WeightChange, sizes: Sizes, base: Float32Array): Promise<Float32Array> {
  const { out, input, kernel } = sizes
  switch (change.family) {
    case 'lora':
    case 'locon': {
      const [up, down] = [await readLoraTensor(change.up), await readLoraTensor(change.down)]
      return scaled(matMul(up.data, down.data, [out, change.rank, input * kernel]), change.scale)
    }
    case 'tucker': {
      const up = await readLoraTensor(change.up)
      const [mid, down] = [await readLoraTensor(change.mid), await readLoraTensor(change.down)]
      const ranks = [change.rank, change.rank] as const
      return scaled(tuckerProduct(up.data, mid.data, down.data, { out, ranks, input, kernel }), change.scale)
    }
    case 'loha':
      return await loha(change, sizes)
    case 'lokr':
      return await lokr(change, sizes)
    case 'full':
    case 'norm':
      return (await readLoraTensor(change.diff)).data
  }
  const { data: factor } = await readLoraTensor(change.factor)
  const perOutput = input * kernel
  return base.map((value, at) => {
    const index = change.onInput ? Math.floor(at / kernel) % input : Math.floor(at / perOutput)
    return value * factor[index]
  })
}

async function loha(
  change: Extract<WeightChange, { family: 'loha' }>,
  { out, input, kernel }: Sizes,
): Promise<Float32Array> {
  const { cores } = change
  const half = async (a: Tensor, b: Tensor, core: Tensor | null): Promise<Float32Array> => {
    const rank = b.shape[0]
    if (core === null) return matMul(a.data, b.data, [out, rank, input * kernel])
    const left = transposed(a.data, [rank, out])
    return tuckerProduct(left, core.data, b.data, { out, ranks: [rank, rank], input, kernel })
  }
  const [a1, b1] = [await readLoraTensor(change.w1a), await readLoraTensor(change.w1b)]
  const result = await half(a1, b1, cores && (await readLoraTensor(cores.t1)))
  const [a2, b2] = [await readLoraTensor(change.w2a), await readLoraTensor(change.w2b)]
  const second = await half(a2, b2, cores && (await readLoraTensor(cores.t2)))
  for (let i = 0; i < result.length; i++) result[i] *= second[i]
  return scaled(result, change.scale)
}

async function lokr(
  change: Extract<WeightChange, { family: 'lokr' }>,
  { out, input, kernel }: Sizes,
): Promise<Float32Array> {
  const [rows, columns] = 'a' in change.w1 ? [change.w1.a.shape[0], change.w1.b.shape[1]] : change.w1.shape
  const [b, d] = [out / rows, input / columns]
  const w1 = await product(change.w1)
  const w2 = change.t2 === null ? await product(change.w2) : await coredFactor(change.w2, change.t2, [b, d, kernel])
  return scaled(kronecker(w1, [rows, columns], w2, [b, d, kernel]), change.scale)
}

async function product(factor: LokrFactor): Promise<Float32Array> {
  if (!('a' in factor)) return (await readLoraTensor(factor)).data
  const [a, b] = [await readLoraTensor(factor.a), await readLoraTensor(factor.b)]
  return matMul(a.data, b.data, [a.shape[0], a.shape[1], b.shape[1]])
}

/** LoKr's second factor with a core: a (r, b), b (s, d), core (r, s, K) → (b, d, K). */
async function coredFactor(
  factor: LokrFactor,
  core: NonNullable<Extract<WeightChange, { family: 'lokr' }>['t2']>,
  [out, input, kernel]: readonly [number, number, number],
): Promise<Float32Array> {
  if (!('a' in factor)) throw new AppError('internal', `lora: ${core.name} beside a whole factor`)
  const [a, b, t] = [await readLoraTensor(factor.a), await readLoraTensor(factor.b), await readLoraTensor(core)]
  const ranks = [a.shape[0], b.shape[0]] as const
  const left = transposed(a.data, [ranks[0], out])
  return tuckerProduct(left, t.data, b.data, { out, ranks, input, kernel })
}

/** m ∘ (W + ΔW) / ‖W + ΔW‖ − W, with lengths by output or by input over everything else. */
async function withLengths(
  delta: Float32Array,
  { axis, lengths }: DoraMagnitude,
  { out, input, kernel }: Sizes,
  base: Float32Array,
): Promise<Float32Array> {
  const { data: wanted } = await readLoraTensor(lengths)
  const count = axis === 'out' ? out : input
  const perOutput = input * kernel
  const indexOf = (at: number): number =>
    axis === 'out' ? Math.floor(at / perOutput) : Math.floor(at / kernel) % input
  const squares = new Float64Array(count)
  for (let at = 0; at < base.length; at++) squares[indexOf(at)] += (base[at] + delta[at]) ** 2
  const factors = squares.map((sum, index) => wanted[index] / (Math.sqrt(sum) + fp32Epsilon))
  return delta.map((value, at) => (base[at] + value) * factors[indexOf(at)] - base[at])
}

function scaled(data: Float32Array, scale: number): Float32Array {
  if (scale !== 1) for (let i = 0; i < data.length; i++) data[i] *= scale
  return data
}
