// Words of a prompt that stand for vectors of textual inversions (arXiv 2208.01618). They are found before tokens are
// made, so that a word's pieces never meet the vocabulary.
import { AppError } from '../../errors.ts'

/** What a word stands for: as many vectors for the first text encoder as for the second. */
export type PromptInversion = {
  readonly trigger: string
  readonly first: readonly Float32Array[]
  readonly second: readonly Float32Array[]
}

/** The words of a request. Their vectors are named by ids that no vocabulary has. */
export type TriggerWords = {
  /** One group a word, the longest first; null where there are no words. */
  readonly pattern: RegExp | null
  /** The ids of each group's vectors. */
  readonly ids: readonly (readonly number[])[]
}

/** Ids of vectors start here: vocabularies end far below. */
const firstVectorId = 2 ** 24
const field = 'textualInversions'
const whitespace = /\p{White_Space}+/gu
const letter = String.raw`[\p{L}\p{M}\p{N}_]`

/**
 * The words of `inversions` as they are looked for: whole words, whatever their case, runs of white space alike. Throws
 * `bad_argument` for an empty word and for one that stands for two things.
 */
export function triggerWords(inversions: readonly PromptInversion[]): TriggerWords {
  if (inversions.length === 0) return { pattern: null, ids: [] }
  const seen = new Set<string>()
  for (const { trigger } of inversions) {
    const word = plain(trigger).toLowerCase()
    if (word === '' || !word.isWellFormed())
      throw new AppError('bad_argument', `textual inversions: the trigger ${JSON.stringify(trigger)} is no word`, {
        field,
      })
    if (seen.has(word))
      throw new AppError('bad_argument', `textual inversions: the trigger ${JSON.stringify(word)} is there twice`, {
        field,
      })
    seen.add(word)
  }
  const starts = vectorStarts(inversions)
  const words = inversions.map(({ trigger, first }, index) => ({
    word: plain(trigger),
    ids: first.map((_, vector) => starts[index] + vector),
  }))
  words.sort((a, b) => b.word.length - a.word.length)
  const pattern = new RegExp(words.map(({ word }) => `(${patternOf(word)})`).join('|'), 'giu')
  return { pattern, ids: words.map(({ ids }) => ids) }
}

/** Id → vector, for one of the two text encoders. */
export function vectorRows(
  inversions: readonly PromptInversion[],
  encoder: 'first' | 'second',
): ReadonlyMap<number, Float32Array> {
  const starts = vectorStarts(inversions)
  return new Map(
    inversions.flatMap((inversion, index) =>
      inversion[encoder].map((vector, row) => [starts[index] + row, vector] as const),
    ),
  )
}

/** `text` in order: what is between the words as text, each word as the ids of its vectors. */
export function splitAtTriggers(text: string, { ids, pattern }: TriggerWords): (string | readonly number[])[] {
  if (pattern === null) return [text]
  // As the tokenizer does, so that a letter has one spelling.
  const composed = text.normalize('NFC')
  const pieces: (string | readonly number[])[] = []
  let end = 0
  for (const match of composed.matchAll(pattern)) {
    pieces.push(composed.slice(end, match.index), ids[match.slice(1).findIndex((group) => group !== undefined)])
    end = match.index + match[0].length
  }
  pieces.push(composed.slice(end))
  return pieces
}

/** The triggers of `inversions` that none of `texts` contains. */
export function unusedTriggers(inversions: readonly PromptInversion[], texts: readonly string[]): string[] {
  return inversions
    .filter((inversion) => texts.every((text) => splitAtTriggers(text, triggerWords([inversion])).length === 1))
    .map(({ trigger }) => trigger)
}

function vectorStarts(inversions: readonly PromptInversion[]): number[] {
  let next = firstVectorId
  return inversions.map(({ first }) => {
    next += first.length
    return next - first.length
  })
}

/** One spelling of a word: composed letters, single spaces. */
function plain(trigger: string): string {
  return trigger.normalize('NFC').replaceAll(whitespace, ' ').trim()
}

/** An end of a word that is a letter or a number does not go on in the text; other signs stand for themselves. */
function patternOf(word: string): string {
  const [starts, ends] = [new RegExp(`^${letter}`, 'u').test(word), new RegExp(`${letter}$`, 'u').test(word)]
  const body = word
    .split(' ')
    .map((part) => RegExp.escape(part))
    .join(String.raw`\p{White_Space}+`)
  return `${starts ? `(?<!${letter})` : ''}${body}${ends ? `(?!${letter})` : ''}`
}
