// The LoRAs of a request, as one network takes them: what can be a branch is one, the rest is added to the weights.
import { createHash } from 'node:crypto'
import type { Lora, LoraModule } from './lora.ts'
import { branchBytes, isLowRank, type ScaledModule } from './lora-branches.ts'
import type { LoraNetworkName } from './lora-networks.ts'

/** A LoRA with its file's content hash and the strength that it is asked for with. */
export type AppliedLora = { readonly lora: Lora; readonly hash: string; readonly strength: number }

/** Changes that are added to weights before the network is loaded. */
export type WeightMerge = {
  /** 64 hexadecimal digits: the files, strengths and modules. */
  readonly hash: string
  /** State-dict key of a weight or bias → what changes it. */
  readonly changes: ReadonlyMap<string, readonly ScaledModule[]>
}

/** What LoRAs do to one network. */
export type NetworkLoras = {
  /** Paths of the modules that have a branch, sorted: they decide on the graph. */
  readonly targets: readonly string[]
  readonly branches: readonly ScaledModule[]
  readonly branchBytes: number
  /** 64 hexadecimal digits: the files and strengths behind the branches. */
  readonly branchHash: string
  readonly merge: WeightMerge | null
}

/**
 * What `loras` do to a network; null where they leave it alone. Their order does not matter. With `mergeConvolutions` those
 * of convolutions are added to the weights too: OpenVINO has no kernel for a convolution by an input.
 */
export function networkLoras(
  loras: readonly AppliedLora[],
  network: LoraNetworkName,
  { mergeConvolutions = false }: { mergeConvolutions?: boolean } = {},
): NetworkLoras | null {
  const isBranch = (module: LoraModule): boolean =>
    isLowRank(module) && !(mergeConvolutions && module.target.kind === 'conv')
  // In one order, so that the sums are the same to the last bit.
  const sorted = loras.filter(({ strength }) => strength !== 0).toSorted(compare)
  const branches: ScaledModule[] = []
  const changes = new Map<string, ScaledModule[]>()
  const branchLines: string[] = []
  const mergeLines: string[] = mergeConvolutions ? ['with convolutions'] : []
  for (const { lora, hash, strength } of sorted) {
    const modules = lora.modules.filter(({ target }) => target.network === network)
    const line = `${hash} ${strength}`
    for (const module of modules) {
      const scaled = { module, strength }
      const { path } = module.target
      if (isBranch(module)) branches.push(scaled)
      else if (module.change !== null) push(changes, `${path}.weight`, scaled)
      if (module.biasDiff !== null) push(changes, `${path}.bias`, scaled)
    }
    if (modules.some(isBranch)) branchLines.push(line)
    if (modules.some((module) => !isBranch(module) || module.biasDiff !== null)) mergeLines.push(line)
  }
  if (branches.length === 0 && changes.size === 0) return null
  return {
    targets: [...new Set(branches.map(({ module }) => module.target.path))].sort(),
    branches,
    branchBytes: branchBytes(branches),
    branchHash: sha256(branchLines),
    merge: changes.size === 0 ? null : { hash: sha256(mergeLines), changes },
  }
}

/** The identity of the graph and the weights that `loras` need, for the names of loaded networks. */
export function variantOf({ targets, merge }: NetworkLoras): string {
  return sha256([...targets, `merge ${merge?.hash ?? 'none'}`]).slice(0, 16)
}

function push<K, V>(map: Map<K, V[]>, key: K, value: V): void {
  const values = map.get(key)
  if (values) values.push(value)
  else map.set(key, [value])
}

function compare(a: AppliedLora, b: AppliedLora): number {
  return a.hash < b.hash ? -1 : a.hash > b.hash ? 1 : a.strength - b.strength
}

function sha256(lines: readonly string[]): string {
  return createHash('sha256').update(lines.join('\n')).digest('hex')
}
