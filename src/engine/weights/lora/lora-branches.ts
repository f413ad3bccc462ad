// Low-rank changes as inputs of a graph: x·A·B beside x·W, so that another LoRA is another input and no weight changes.
import { tensor, type Tensor } from '#tensor/tensor.ts'
import { AppError } from '../../../errors.ts'
import type { LoraModule } from './lora.ts'
import { readLoraTensor } from './lora-values.ts'

/** A module of a LoRA and the strength that it is applied with. */
export type ScaledModule = { readonly module: LoraModule; readonly strength: number }

/**
 * The inputs of one module's branch, of all LoRAs together: (I, R) and (R, O) of a linear, (R, I, k, k) and (O, R, 1, 1)
 * of a convolution. R is the sum of the ranks; scales and strengths are folded into B.
 */
export type LoraBranch = { readonly a: Tensor; readonly b: Tensor }

/** Module's path → its branch. */
export type LoraBranches = ReadonlyMap<string, LoraBranch>

/** Whether a module's change can be a branch: a product of two matrices and nothing else. */
export function isLowRank({ change, dora }: LoraModule): boolean {
  return dora === null && (change?.family === 'lora' || change?.family === 'locon')
}

/** Bytes of the branches of some modules. */
export function branchBytes(modules: readonly ScaledModule[]): number {
  return modules.reduce((sum, { module }) => {
    const { change } = module
    if (change === null || !('down' in change)) return sum
    return sum + 4 * [change.down, change.up].reduce((count, { shape }) => count + shape.reduce((a, b) => a * b, 1), 0)
  }, 0)
}

/** Read the branches of low-rank modules. Throws `not_finite` for NaN or infinity in a file. */
export async function readBranches(modules: readonly ScaledModule[]): Promise<LoraBranches> {
  const groups = Map.groupBy(modules, ({ module }) => module.target.path)
  const branches = new Map<string, LoraBranch>()
  for (const [path, group] of groups) branches.set(path, await readBranch(group))
  return branches
}

async function readBranch(group: readonly ScaledModule[]): Promise<LoraBranch> {
  const { kind, weightShape } = group[0].module.target
  const [out, input, ...kernel] = weightShape
  const ranks = group.map(({ module }) => lowRankOf(module).rank)
  const total = ranks.reduce((sum, rank) => sum + rank, 0)
  const isConv = kind === 'conv'
  const columns = weightShape.slice(1).reduce((product, size) => product * size, 1)
  const a = new Float32Array(total * columns)
  const b = new Float32Array(total * out)
  let start = 0
  for (const { module, strength } of group) {
    const change = lowRankOf(module)
    const factor = change.scale * strength
    const { data: down } = await readLoraTensor(change.down) // (r, columns)
    const { data: up } = await readLoraTensor(change.up) // (out, r)
    if (isConv) a.set(down, start * columns)
    else
      for (let i = 0; i < columns; i++)
        for (let r = 0; r < change.rank; r++) a[i * total + start + r] = down[r * columns + i]
    const [perOutput, perRank] = isConv ? [total, 1] : [1, out]
    for (let o = 0; o < out; o++)
      for (let r = 0; r < change.rank; r++) b[o * perOutput + (start + r) * perRank] = up[o * change.rank + r] * factor
    start += change.rank
  }
  return isConv
    ? { a: tensor([total, input, ...kernel], a), b: tensor([out, total, 1, 1], b) }
    : { a: tensor([input, total], a), b: tensor([total, out], b) }
}

function lowRankOf({ change, target }: LoraModule): Extract<LoraModule['change'], { family: 'lora' | 'locon' }> {
  if (change?.family === 'lora' || change?.family === 'locon') return change
  throw new AppError('internal', `lora: the change of ${target.path} is no product of two matrices`)
}
