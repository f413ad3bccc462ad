// CLIP's tokenizer: lower-cased text cut into words, each word's UTF-8 bytes encoded as byte pairs with a mark at the
// word's end. It follows Hugging Face's tokenizers where that departs from OpenAI's original.
import type { TokenizerData } from '#engine/weights/checkpoint.ts'
import { AppError } from '../../errors.ts'
import { mergeSymbols, type MergeRanks } from './byte-pair-encoding.ts'

/** Tokens of one encoder pass, start and end included; CLIP has position embeddings for no more. */
export const chunkLength = 77

const endOfWord = '</w>'
/** Words repeat across prompts; past this many the cache starts anew. */
const maxCachedWords = 10_000
/** Longer words are rare and would fill memory. */
const maxCachedWordLength = 64

/** \s of the reference is Unicode's White_Space, which JavaScript's \s is not (U+0085, U+FEFF). */
const whitespace = /\p{White_Space}+/gu
// Letters are those of the running Node's Unicode. Every character was compared with the reference (Unicode 16): only the
// letters that Unicode 17 added fall apart there, where they hold together here.
const words = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\p{White_Space}\p{L}\p{N}]+/gu

/** Text → token ids of one CLIP text encoder. */
export class ClipTokenizer {
  readonly bosTokenId: number
  readonly eosTokenId: number
  readonly padTokenId: number
  readonly #vocab: ReadonlyMap<string, number>
  readonly #mergeRanks: MergeRanks
  /** The pad token is found in the text as typed and never merges: each "!" for SDXL's second encoder. */
  readonly #pad: SpecialToken
  /** Start and end marks written out in a prompt are found after lower-casing, unless one is the pad token. */
  readonly #marks: readonly SpecialToken[]
  readonly #cache = new Map<string, readonly number[]>()

  /** Throws bad_file when vocabulary and special tokens do not fit together. */
  constructor(data: TokenizerData) {
    if (data.modelMaxLength !== chunkLength)
      throw new AppError('bad_file', `tokenizer: model_max_length ${data.modelMaxLength} is not CLIP's ${chunkLength}`)
    this.bosTokenId = data.bosTokenId
    this.eosTokenId = data.eosTokenId
    this.padTokenId = data.padTokenId
    this.#vocab = data.vocab
    this.#mergeRanks = data.mergeRanks
    this.#pad = specialToken(data, 'pad', data.padTokenId)
    const marks = [specialToken(data, 'bos', data.bosTokenId), specialToken(data, 'eos', data.eosTokenId)]
    this.#marks = marks.filter(({ id }) => id !== data.padTokenId)
  }

  /** Ids of `text` without start, end and padding, of any length. Throws bad_prompt when the text is no Unicode. */
  encode(text: string): number[] {
    if (!text.isWellFormed()) throw new AppError('bad_prompt', 'prompt: half of a surrogate pair is not a character')
    const ids: number[] = []
    for (const piece of splitAt(text, [this.#pad])) {
      if (typeof piece === 'number') ids.push(piece)
      else
        for (const part of splitAt(normalize(piece), this.#marks)) {
          if (typeof part === 'number') ids.push(part)
          else for (const [word] of part.matchAll(words)) for (const id of this.#encodeWord(word)) ids.push(id)
        }
    }
    return ids
  }

  #encodeWord(word: string): readonly number[] {
    const cached = this.#cache.get(word)
    if (cached) return cached
    // A byte that the vocabulary lacks is CLIP's unknown token, which is the end mark.
    const symbols = mergeSymbols(this.#symbols(word), this.#mergeRanks)
    const ids = symbols.map((symbol) => this.#vocab.get(symbol) ?? this.eosTokenId)
    if (word.length <= maxCachedWordLength) {
      if (this.#cache.size >= maxCachedWords) this.#cache.clear()
      this.#cache.set(word, ids)
    }
    return ids
  }

  /** One symbol a byte. */
  #symbols(word: string): string[] {
    const bytes = new TextEncoder().encode(word)
    return Array.from(bytes, (byte, i) => (i === bytes.length - 1 ? byteSymbols[byte] + endOfWord : byteSymbols[byte]))
  }
}

type SpecialToken = { readonly text: string; readonly id: number }

function specialToken(data: TokenizerData, name: string, id: number): SpecialToken {
  for (const [text, tokenId] of data.vocab) if (tokenId === id && text !== '') return { text, id }
  throw new AppError('bad_file', `tokenizer: vocab has no token for the ${name} token id ${id}`)
}

/** `text` with every special token in it replaced by its id; the earliest is taken first. */
function splitAt(text: string, specials: readonly SpecialToken[]): (string | number)[] {
  const pieces: (string | number)[] = []
  let start = 0
  // One position a token, moved on when passed, so that the whole text is searched once a token.
  const found = specials.map(({ text: mark }) => text.indexOf(mark))
  for (;;) {
    let earliest = -1
    for (const [i, position] of found.entries())
      if (position !== -1 && (earliest === -1 || position < found[earliest])) earliest = i
    if (earliest === -1) break
    const position = found[earliest]
    pieces.push(text.slice(start, position), specials[earliest].id)
    start = position + specials[earliest].text.length
    for (const [i, { text: mark }] of specials.entries())
      if (found[i] !== -1 && found[i] < start) found[i] = text.indexOf(mark, start)
  }
  pieces.push(text.slice(start))
  return pieces
}

/** NFC, each run of white space one space, lower case character by character: a final sigma stays σ as in the reference. */
function normalize(text: string): string {
  return Array.from(text.normalize('NFC').replaceAll(whitespace, ' '), (character) => character.toLowerCase()).join('')
}

/** GPT-2's printable stand-ins for bytes: those that print in Latin-1 are themselves, the rest follow from U+0100. */
const byteSymbols: readonly string[] = (() => {
  const printable = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte !== 173)
  let next = 256
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(printable(byte) ? byte : next++))
})()
