// References of an order → files by their content. Each is looked up in the name of the account, must be ready, and must
// be what the field takes.
import type { ContentHash, TaskInversion, TaskLora } from '#worker/protocol.ts'
import { AppError } from '../../errors.ts'
import type { Drizzle } from '../db/database.ts'
import type { AssetType } from '../db/schema.ts'
import { sdxlEngine } from './asset.ts'
import { requireAsset, type Viewer } from './find-asset.ts'

/** What an order says of assets; see GenerateOrder. */
export type AssetReferences = {
  readonly checkpoint: string | null
  readonly vae: string | null
  /** Reference → weight. */
  readonly loras: Readonly<Record<string, number>>
  /** Reference → trigger word. */
  readonly textualInversions: Readonly<Record<string, string>>
}

/** The same as a task says it. */
export type ResolvedAssets = {
  readonly checkpoint: ContentHash | null
  readonly vae: ContentHash | null
  readonly loras: readonly TaskLora[]
  readonly textualInversions: readonly TaskInversion[]
}

/** No assets at all. */
export const noAssets: ResolvedAssets = { checkpoint: null, vae: null, loras: [], textualInversions: [] }

/** So many that nobody misses more, and few enough to look each of them up. */
const mostOfAKind = 100

/** All files that an order needs. */
export function assetHashes({ checkpoint, vae, loras, textualInversions }: ResolvedAssets): ContentHash[] {
  const hashes = [
    ...(checkpoint === null ? [] : [checkpoint]),
    ...(vae === null ? [] : [vae]),
    ...loras.map(({ asset }) => asset),
    ...textualInversions.map(({ asset }) => asset),
  ]
  return [...new Set(hashes)]
}

/** Throws `not_found` for references that the account has no asset of, `bad_argument` for those that do not fit their field. */
export async function resolveAssets(db: Drizzle, viewer: Viewer, references: AssetReferences): Promise<ResolvedAssets> {
  const resolve = (reference: string, type: AssetType, field: string) => fileOf(db, viewer, reference, { type, field })
  const { checkpoint, vae } = references
  for (const field of ['loras', 'textualInversions'] as const) {
    const count = Object.keys(references[field]).length
    if (count > mostOfAKind)
      throw new AppError('bad_argument', `${field}: at most ${mostOfAKind} in a request, got ${count}`, { field })
  }
  const loras: TaskLora[] = []
  for (const [reference, scale] of Object.entries(references.loras))
    loras.push({ asset: await resolve(reference, 'lora', 'loras'), scale })
  const textualInversions: TaskInversion[] = []
  for (const [reference, trigger] of Object.entries(references.textualInversions)) {
    const asset = await resolve(reference, 'textual_inversion', 'textualInversions')
    textualInversions.push({ asset, trigger: checkedTrigger(reference, trigger, textualInversions) })
  }
  return {
    checkpoint: checkpoint === null ? null : await resolve(checkpoint, 'checkpoint', 'checkpoint'),
    vae: vae === null ? null : await resolve(vae, 'vae', 'vae'),
    loras,
    textualInversions,
  }
}

async function fileOf(
  db: Drizzle,
  viewer: Viewer,
  reference: string,
  { type, field }: { readonly type: AssetType; readonly field: string },
): Promise<ContentHash> {
  const asset = await requireAsset(db, viewer, reference, field)
  const refuse = (what: string): never => {
    throw new AppError('bad_argument', `${field}: the asset ${JSON.stringify(reference)} ${what}`, { field })
  }
  if (asset.type !== type) refuse(`is a ${asset.type}, and this field takes a ${type}`)
  if (asset.data.engine !== sdxlEngine) refuse(`is made for ${asset.data.engine}, and this field takes ${sdxlEngine}`)
  if (asset.status === 'rejected') refuse(`was rejected: ${asset.statusDetails}`)
  if (asset.hash === null) return refuse(`is not ready, but ${asset.status}`)
  return asset.hash
}

const longestTrigger = 100

/** Quotation marks round the word come from programs that copied it out of a text. */
function checkedTrigger(reference: string, given: string, others: readonly TaskInversion[]): string {
  const field = 'textualInversions'
  const trigger = given
    .trim()
    .replace(/^["'“”‘’]+|["'“”‘’]+$/g, '')
    .trim()
  if (trigger === '' || trigger.length > longestTrigger || !/^[^\p{C}]+$/u.test(trigger))
    throw new AppError(
      'bad_argument',
      `textualInversions: the trigger word of ${JSON.stringify(reference)} must have 1 to ${longestTrigger} printable characters, got ${JSON.stringify(given.slice(0, 140))}`,
      { field },
    )
  if (others.some((other) => other.trigger.toLowerCase() === trigger.toLowerCase()))
    throw new AppError(
      'bad_argument',
      `textualInversions: ${JSON.stringify(trigger)} is the trigger word of two, and can be one's only`,
      { field },
    )
  return trigger
}
