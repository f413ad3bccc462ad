// Which files of a repository make up a model: one file of weights, or a diffusers folder without what we do not read.
import { AppError } from '../../../errors.ts'
import type { HubFile, HubReference, HubRepository } from './hub-repository.ts'

/** What to take of a repository. A folder's paths are relative to it. */
export type HubChoice =
  | { readonly layout: 'file'; readonly file: HubFile }
  | { readonly layout: 'folder'; readonly files: readonly HubFile[] }

/** The folders of a diffusers model that are read. */
const components: ReadonlySet<string> = new Set([
  'scheduler',
  'text_encoder',
  'text_encoder_2',
  'tokenizer',
  'tokenizer_2',
  'unet',
  'vae',
])
const weightsEnding = /\.(safetensors|pt|pth|ckpt|bin)$/
const listedNames = 8

/**
 * The file that the reference names, else the diffusers folder if the repository is one, else its only file of weights.
 * `variant` takes files such as `model.fp16.safetensors` of a folder. Throws `bad_argument` where that is none or several.
 */
export function chooseHubFiles(
  repository: HubRepository,
  { file: name, repo }: Pick<HubReference, 'file' | 'repo'>,
  { field, variant }: { readonly field: string; readonly variant: string | null },
): HubChoice {
  const { files } = repository
  const refuse = (why: string): AppError => new AppError('bad_argument', `${field}: ${repo} ${why}`, { field })
  if (name !== null) {
    const file = files.find((candidate) => candidate.path === name)
    if (!file) throw refuse(`has no file "${name}"; it has ${listOf(files.filter(isWeights))}`)
    return { layout: 'file', file }
  }
  if (files.some((file) => file.path === 'model_index.json')) {
    const chosen = folderFiles(files, variant)
    const hasWeights = chosen.some((file) => file.path.startsWith('unet/') && isWeights(file))
    if (!hasWeights) throw refuse(`has no safetensors weights${variant === null ? '' : ` of the variant "${variant}"`}`)
    return { layout: 'folder', files: chosen }
  }
  const weights = files.filter(isWeights)
  const safe = weights.filter((file) => file.path.endsWith('.safetensors'))
  const candidates = safe.length > 0 ? safe : weights
  if (candidates.length !== 1)
    throw refuse(candidates.length === 0 ? 'has no file of weights' : `has several; name one: ${listOf(candidates)}`)
  return { layout: 'file', file: candidates[0] }
}

/** What a diffusers folder needs: its descriptions, and of each component one set of safetensors. */
function folderFiles(files: readonly HubFile[], variant: string | null): readonly HubFile[] {
  return files.filter(({ path }) => {
    if (path === 'model_index.json') return true
    const [folder, name, ...deeper] = path.split('/')
    if (name === undefined || deeper.length > 0 || !components.has(folder)) return false
    if (folder.startsWith('tokenizer')) return /\.(json|txt)$/.test(name)
    // The list of a sharded component's files has its variant in its name too.
    const isIndex = name.includes('.safetensors.index')
    if (!name.endsWith('.safetensors') && !isIndex) return name.endsWith('.json') && !name.includes('.index.')
    return variantOf(name) === variantIn(files, folder, variant)
  })
}

/** The variant where the component comes in it, else the plain one: small components are often published once. */
function variantIn(files: readonly HubFile[], folder: string, variant: string | null): string | null {
  const has = files.some(
    ({ path }) => path.startsWith(`${folder}/`) && isWeights({ path }) && variantOf(path.split('/')[1]) === variant,
  )
  return has || folder === 'unet' ? variant : null
}

/** `model.fp16.safetensors`, `model.fp16-00001-of-00002.safetensors`, `model.safetensors.index.fp16.json` → fp16. */
function variantOf(name: string): string | null {
  const index = /\.safetensors\.index\.([\w-]+)\.json$/.exec(name)
  if (index) return index[1]
  return /\.([a-z]\w*)(?:-\d{5}-of-\d{5})?\.safetensors$/.exec(name)?.[1] ?? null
}

const isWeights = ({ path }: Pick<HubFile, 'path'>): boolean => weightsEnding.test(path)

function listOf(files: readonly HubFile[]): string {
  if (files.length === 0) return 'none of weights'
  const names = files.slice(0, listedNames).map(({ path }) => path)
  return `${names.join(', ')}${files.length > names.length ? `, and ${files.length - names.length} more` : ''}`
}
