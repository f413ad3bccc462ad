// The branches of LoRAs as inputs of a graph.
import type { Feed } from '../backend.ts'
import { AppError } from '../../errors.ts'
import type { LoraBranches } from '../weights/lora/lora-branches.ts'

/** Name of an input → its value. */
export type LoraFeeds = Readonly<Record<string, Feed>>

/** The inputs of a graph with branches at `targets`; branches of other modules are passed over. */
export function branchFeeds(network: string, targets: ReadonlySet<string>, branches: LoraBranches): LoraFeeds {
  const feeds: Record<string, Feed> = {}
  for (const path of targets) {
    const branch = branches.get(path)
    if (!branch) throw new AppError('internal', `${network}: there is no LoRA branch for ${path}`)
    feeds[`${path}.lora_A`] = branch.a
    feeds[`${path}.lora_B`] = branch.b
  }
  return feeds
}
