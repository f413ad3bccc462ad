// The tensors of one module: which family they are, whether they are complete and fit the module's weight.
import { elementCount } from '#tensor/tensor.ts'
import type { DoraMagnitude, LokrFactor, LoraModule, LoraTensor, WeightChange } from './lora.ts'
import type { LoraTarget } from './lora-networks.ts'
import type { LoraRole } from './lora-suffixes.ts'

/** The parts of a module that a file has. */
export type ModuleParts = {
  readonly target: LoraTarget
  readonly tensors: ReadonlyMap<LoraRole, LoraTensor>
  /** The value of the `alpha` tensor; null where there is none. */
  readonly alpha: number | null
  /** The value of the `onInput` tensor; null where there is none. */
  readonly onInput: boolean | null
  /** The scale where there is no alpha, from the file's metadata. */
  readonly scaleOf: (rank: number) => number
  /** How the file spells a part that it lacks. */
  readonly nameOf: (role: LoraRole) => string
}

/** One tensor that has no place or does not fit, or one that is missing. */
export class LoraMisfit extends Error {
  readonly tensor: string

  constructor(tensor: string, problem: string) {
    super(`${tensor} ${problem}`)
    this.tensor = tensor
  }
}

/** The change that the parts make together. Throws {@link LoraMisfit} naming the tensor that is missing or too many. */
export function readModule(parts: ModuleParts): LoraModule {
  const { target, tensors } = parts
  const left = new Set(tensors.keys())
  const optional = (role: LoraRole): LoraTensor | null => {
    left.delete(role)
    return tensors.get(role) ?? null
  }
  const need = (role: LoraRole): LoraTensor => {
    const tensor = optional(role)
    if (tensor === null) throw new LoraMisfit(parts.nameOf(role), 'is missing')
    return tensor
  }
  const take: Take = { ...parts, need, optional, has: (role) => tensors.has(role) }

  const change = readChange(take)
  const dora = readDora(take)
  const biasDiff = change?.family === 'norm' ? null : optional('diffBias')
  const normBias = change?.family === 'norm' && target.hasBias ? need('normBias') : null
  for (const tensor of [biasDiff, normBias])
    if (tensor) {
      if (!target.hasBias) throw new LoraMisfit(tensor.name, `changes the bias of ${target.path}, which has none`)
      fit(tensor, [target.weightShape[0]])
    }
  for (const role of left) throw new LoraMisfit(tensors.get(role)!.name, problemOf(role, change))
  if (dora !== null && (change === null || change.family === 'norm'))
    throw new LoraMisfit(dora.lengths.name, 'has no change of a weight beside it')
  return { target, change, dora, biasDiff: biasDiff ?? normBias }
}

function problemOf(role: LoraRole, change: WeightChange | null): string {
  if (role === 'upBias') return 'is a bias of an adapter, which is not supported'
  return change === null ? 'has nothing beside it that it belongs to' : `does not belong to a ${change.family} change`
}

type Take = ModuleParts & {
  readonly need: (role: LoraRole) => LoraTensor
  readonly optional: (role: LoraRole) => LoraTensor | null
  readonly has: (role: LoraRole) => boolean
}

/** Null where the bias alone is changed. */
function readChange(take: Take): WeightChange | null {
  const { has, need, target } = take
  const any = (...roles: LoraRole[]): boolean => roles.some(has)
  if (any('down', 'up', 'mid')) return lowRank(take)
  if (any('hadaW1a', 'hadaW1b', 'hadaW2a', 'hadaW2b', 'hadaT1', 'hadaT2')) return loha(take)
  if (any('lokrW1', 'lokrW1a', 'lokrW1b', 'lokrW2', 'lokrW2a', 'lokrW2b', 'lokrT2')) return lokr(take)
  if (any('diff')) {
    const diff = need('diff')
    fit(diff, target.weightShape)
    return { family: 'full', diff }
  }
  if (any('normWeight', 'normBias')) {
    const diff = need('normWeight')
    if (target.kind !== 'norm') throw new LoraMisfit(diff.name, `is a norm's, and ${target.path} is none`)
    fit(diff, target.weightShape)
    return { family: 'norm', diff }
  }
  if (any('factor', 'onInput')) return ia3(take)
  return null
}

/** [O, I, height, width] of the weight; kernels of linears are 1×1. */
function sizes({ weightShape }: LoraTarget): readonly [number, number, number, number] {
  const [out, input = 1, height = 1, width = 1] = weightShape
  return [out, input, height, width]
}

function lowRank(take: Take): WeightChange {
  const { need, optional, target } = take
  const [down, up] = [need('down'), need('up')]
  refuseNorm(target, down)
  const [out, input, height, width] = sizes(target)
  const rank = rankOf(down, 0)
  const scale = scaleOf(take, rank)
  const isSmall = down.shape.slice(2).every((size) => size === 1)
  const mid = optional('mid')
  fit(up, [out, rank], [out, rank, 1, 1])
  if (mid) {
    fit(down, [rank, input], [rank, input, 1, 1])
    fit(mid, [rank, rank, height, width])
    return { family: 'tucker', rank, scale, down, mid, up }
  }
  if (target.kind === 'linear' || height * width === 1) {
    fit(down, [rank, input], [rank, input, 1, 1])
    return { family: target.kind === 'linear' ? 'lora' : 'locon', rank, scale, down, up }
  }
  if (isSmall && down.shape[1] === input) throw new LoraMisfit(take.nameOf('mid'), 'is missing')
  fit(down, [rank, input, height, width])
  return { family: 'locon', rank, scale, down, up }
}

function loha(take: Take): WeightChange {
  const { has, need, target } = take
  const [w1a, w1b, w2a, w2b] = [need('hadaW1a'), need('hadaW1b'), need('hadaW2a'), need('hadaW2b')]
  refuseNorm(target, w1a)
  const [out, input, height, width] = sizes(target)
  const rank = rankOf(w1b, 0)
  const scale = scaleOf(take, rank)
  const looksCored = height * width > 1 && w1b.shape[1] === input
  if (has('hadaT1') || has('hadaT2') || looksCored) {
    const cores = { t1: need('hadaT1'), t2: need('hadaT2') }
    const second = rankOf(w2b, 0)
    for (const [a, b, t, r] of [
      [w1a, w1b, cores.t1, rank],
      [w2a, w2b, cores.t2, second],
    ] as const) {
      fit(a, [r, out])
      fit(b, [r, input])
      fit(t, [r, r, height, width])
    }
    return { family: 'loha', rank, scale, w1a, w1b, w2a, w2b, cores }
  }
  for (const [a, b] of [
    [w1a, w1b],
    [w2a, w2b],
  ] as const) {
    const inner = rankOf(b, 0)
    fit(a, [out, inner])
    fit(b, [inner, input * height * width])
  }
  return { family: 'loha', rank, scale, w1a, w1b, w2a, w2b, cores: null }
}

function lokr(take: Take): WeightChange {
  const { optional, target } = take
  const core = optional('lokrT2')
  const w1 = lokrFactor(take, 'lokrW1', 'lokrW1a', 'lokrW1b')
  const w2 = lokrFactor(take, 'lokrW2', 'lokrW2a', 'lokrW2b')
  const any = 'a' in w1 ? w1.a : w1
  refuseNorm(target, any)
  const [out, input, height, width] = sizes(target)

  // 1. the first factor gives the sizes of the second
  const [a, c] = 'a' in w1 ? [w1.a.shape[0], w1.b.shape[1]] : w1.shape
  if ('a' in w1) {
    const inner = rankOf(w1.b, 0)
    fit(w1.a, [a, inner])
    fit(w1.b, [inner, c])
  } else fit(w1, [a, c], [a, c, 1, 1])
  const [b, d] = [out / a, input / c]
  if (!Number.isInteger(b) || !Number.isInteger(d))
    throw new LoraMisfit(any.name, `has the shape [${any.shape.join(', ')}], which does not divide ${out} × ${input}`)

  // 2. the second, in one of its three forms
  if (core) {
    if (!('a' in w2)) throw new LoraMisfit(core.name, 'needs two factors beside it, and lokr_w2 is whole')
    const [left, right] = [rankOf(w2.a, 0), rankOf(w2.b, 0)]
    fit(w2.a, [left, b])
    fit(w2.b, [right, d])
    fit(core, [left, right, height, width])
  } else if ('a' in w2) {
    const inner = rankOf(w2.b, 0)
    const lacksCore = height * width > 1 && w2.b.shape[1] === d && w2.a.shape[1] === b
    if (lacksCore) throw new LoraMisfit(take.nameOf('lokrT2'), 'is missing')
    fit(w2.a, [b, inner])
    fit(w2.b, [inner, d * height * width])
  } else fit(w2, [b, d], [b, d, height, width])

  // 3. Where both are whole the scale is 1, whatever alpha says; where both are products, the second's rank counts.
  const rank = 'a' in w2 ? rankOf(w2.b, 0) : 'a' in w1 ? rankOf(w1.b, 0) : null
  optional('alpha')
  const scale = rank === null ? 1 : scaleOf(take, rank)
  return { family: 'lokr', rank, scale, w1, w2, t2: core }
}

function lokrFactor({ has, need }: Take, whole: LoraRole, a: LoraRole, b: LoraRole): LokrFactor {
  if (has(whole) || !(has(a) || has(b))) return need(whole)
  return { a: need(a), b: need(b) }
}

function ia3({ need, nameOf, onInput, target }: Take): WeightChange {
  const factor = need('factor')
  need('onInput')
  refuseNorm(target, factor)
  if (onInput === null) throw new LoraMisfit(nameOf('onInput'), 'is missing')
  const size = target.weightShape[onInput ? 1 : 0]
  const shape = factor.shape.filter((each) => each !== 1)
  if (elementCount(shape) !== size || shape.length > 1) fit(factor, [size])
  return { family: 'ia3', factor, onInput }
}

function readDora({ has, need, optional, target }: Take): DoraMagnitude | null {
  const [out, input, ...kernel] = target.weightShape
  if (has('magnitude')) {
    // PEFT's are per output; of a convolution it stores them as [1, O, 1, 1].
    const lengths = need('magnitude')
    fit(lengths, [out], [1, out, 1, 1], [out, 1])
    return { lengths, axis: 'out' }
  }
  const lengths = optional('doraScale')
  if (lengths === null) return null
  const ones = kernel.map(() => 1)
  const axis = lengths.shape[0] === out ? 'out' : 'in'
  fit(lengths, [out, 1, ...ones], [1, input, ...ones], [out, 1], [1, input], [out, 1, 1, 1], [1, input, 1, 1], [out])
  return { lengths, axis }
}

/** alpha / rank. */
function scaleOf({ alpha, optional, scaleOf: fromMetadata }: Take, rank: number): number {
  const tensor = optional('alpha')
  if (alpha === null) return fromMetadata(rank)
  if (alpha === 0 || !Number.isFinite(alpha))
    throw new LoraMisfit(tensor!.name, `is ${alpha}, expected a number that is not 0`)
  return alpha / rank
}

function rankOf(tensor: LoraTensor, axis: number): number {
  const rank = tensor.shape[axis] ?? 0
  if (rank === 0)
    throw new LoraMisfit(tensor.name, `has the shape [${tensor.shape.join(', ')}], expected a rank of 1 or more`)
  return rank
}

function refuseNorm({ kind, path }: LoraTarget, tensor: LoraTensor): void {
  if (kind === 'norm') throw new LoraMisfit(tensor.name, `is of a matrix, and ${path} is a norm`)
}

function fit(tensor: LoraTensor, ...shapes: readonly (readonly number[])[]): void {
  if (shapes.some((shape) => shape.join() === tensor.shape.join())) return
  throw new LoraMisfit(
    tensor.name,
    `has the shape [${tensor.shape.join(', ')}], the network needs [${shapes[0].join(', ')}]`,
  )
}
