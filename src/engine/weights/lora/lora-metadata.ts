// What the metadata of a LoRA file say. They are a stranger's words: the decisions are made by names and shapes, these
// are only shown, cut short and without control characters. Alone PEFT's scales are nowhere else.
import { AppError } from '../../../errors.ts'
import type { LoraReport } from './lora.ts'

type Metadata = Readonly<Record<string, string>>

const maxWords = 20
const maxWordLength = 100
/** The pictures that model managers show are 1 MB at most; base64 takes a third more. */
const maxThumbnailLength = 2 << 20

/** The words and the picture of a report. */
export function describeMetadata(metadata: Metadata): Pick<LoraReport, 'triggerWords' | 'baseModel' | 'thumbnail'> {
  const baseModel = metadata['ss_base_model_version'] ?? metadata['modelspec.architecture']
  return {
    triggerWords: triggerWords(metadata),
    baseModel: baseModel === undefined ? null : plain(baseModel) || null,
    thumbnail: thumbnail(metadata['modelspec.thumbnail']),
  }
}

/** The phrase that the file names, or else the most frequent captions of its training. */
function triggerWords(metadata: Metadata): string[] {
  const phrase = plain(metadata['modelspec.trigger_phrase'] ?? '')
  if (phrase !== '') return [phrase]
  const counts = new Map<string, number>()
  for (const tags of Object.values(objectOf(metadata['ss_tag_frequency'])))
    for (const [tag, count] of Object.entries(isObject(tags) ? tags : {})) {
      const word = plain(tag)
      if (typeof count === 'number' && word !== '') counts.set(word, (counts.get(word) ?? 0) + count)
    }
  return [...counts]
    .sort(([, a], [, b]) => b - a)
    .slice(0, maxWords)
    .map(([word]) => word)
}

function thumbnail(url: string | undefined): LoraReport['thumbnail'] {
  if (url === undefined || url.length > maxThumbnailLength) return null
  const match = /^data:(image\/(?:jpeg|png|webp));base64,([A-Za-z0-9+/]+={0,2})$/.exec(url)
  return match ? { mediaType: match[1], bytes: new Uint8Array(Buffer.from(match[2], 'base64')) } : null
}

/** Control characters and markup's brackets become spaces. */
function plain(text: string): string {
  return text
    .slice(0, maxWordLength * 4)
    .replaceAll(/[\p{Cc}\p{Cf}<>]+/gu, ' ')
    .trim()
    .slice(0, maxWordLength)
}

/**
 * The scale of a PEFT adapter's module, alpha / rank or with rs-LoRA alpha / √rank (arXiv 2312.03732), as the metadata
 * of diffusers' files give it; 1 where they do not. Throws `bad_file` for metadata that mean something unknown.
 */
export function peftScales(
  path: string,
  metadata: Metadata,
): (component: string, module: string, rank: number) => number {
  const text = metadata['lora_adapter_metadata']
  if (text === undefined) return () => 1
  const bad = (problem: string): AppError => new AppError('bad_file', `lora ${path}: lora_adapter_metadata ${problem}`)
  const values = parse(text)
  if (!isObject(values)) throw bad('is no JSON object')
  return (component, module, rank) => {
    const value = (key: string): unknown => values[`${component}.${key}`]
    const patterns = value('alpha_pattern') ?? {}
    const usesRoot = value('use_rslora') ?? false
    const general = value('lora_alpha')
    if (!isObject(patterns)) throw bad(`has an ${component}.alpha_pattern that is no object`)
    if (typeof usesRoot !== 'boolean') throw bad(`has ${component}.use_rslora that is neither true nor false`)
    let alpha = general
    for (const [pattern, own] of Object.entries(patterns)) {
      // PEFT takes them for regular expressions; what is written there are names of modules.
      if (!/^[\w.]+$/.test(pattern)) throw bad(`has the pattern ${JSON.stringify(plain(pattern))}, expected a name`)
      if (module === pattern || module.endsWith(`.${pattern}`)) alpha = own
    }
    if (alpha === undefined) return 1
    if (typeof alpha !== 'number' || !Number.isFinite(alpha) || alpha === 0)
      throw bad(`has the alpha ${JSON.stringify(alpha)} for ${module}, expected a number that is not 0`)
    return alpha / (usesRoot ? Math.sqrt(rank) : rank)
  }
}

function objectOf(text: string | undefined): Record<string, unknown> {
  const value = text === undefined ? {} : parse(text)
  return isObject(value) ? value : {}
}

/** Undefined for text that is not JSON: metadata that are only shown may be anything. */
function parse(text: string): unknown {
  try {
    return JSON.parse(text) as unknown
  } catch (error) {
    if (error instanceof SyntaxError) return undefined
    throw error
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
