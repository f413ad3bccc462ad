// CLIP's byte-pair vocabulary, from the files of a model or from the one that ships with Sepia.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { gunzip } from 'node:zlib'
import { AppError } from '../../errors.ts'
import type { TokenizerData } from './checkpoint.ts'
import { readJson, readOptionalJson, readOptionalText } from './json-file.ts'

const startOfText = '<|startoftext|>'
const endOfText = '<|endoftext|>'
const maxLength = 77

/** OpenAI's vocabulary: a header line, then merges, of which CLIP uses these. */
const standardFile = join(import.meta.dirname, '../../../models/clip/bpe_simple_vocab_16e6.txt.gz')
const standardMerges = 48_894

/** Entries of CLIP's own vocabulary: two alphabets of 256 bytes, the merges, start and end of text. */
export const standardVocabSize = 512 + standardMerges + 2

/**
 * The tokenizer in a folder: vocab.json + merges.txt, or tokenizer.json alone, and the special tokens of
 * tokenizer_config.json or special_tokens_map.json. Throws `model_not_found` when there is none, `bad_file` when the
 * files contradict themselves, `wrong_architecture` for a tokenizer that is not CLIP's.
 */
export async function readTokenizer(folder: string): Promise<TokenizerData> {
  const { vocab, mergeRanks } = await readVocabulary(folder)
  const config = await readOptionalJson(join(folder, 'tokenizer_config.json'))
  const specials = await readOptionalJson(join(folder, 'special_tokens_map.json'))
  const idOf = (name: string, fallback: string): number => {
    const token = contentOf(config?.[name]) ?? contentOf(specials?.[name]) ?? fallback
    const id = vocab.get(token)
    if (id === undefined)
      throw new AppError('bad_file', `folder ${folder}: ${name} ${JSON.stringify(token)} is not in the vocabulary`)
    return id
  }
  const limit = config?.['model_max_length'] ?? maxLength
  if (limit !== maxLength)
    throw new AppError(
      'wrong_architecture',
      `folder ${folder}: model_max_length is ${JSON.stringify(limit)}, supported: ${maxLength}`,
    )
  return {
    vocab,
    mergeRanks,
    bosTokenId: idOf('bos_token', startOfText),
    eosTokenId: idOf('eos_token', endOfText),
    padTokenId: idOf('pad_token', endOfText),
    modelMaxLength: maxLength,
  }
}

/** CLIP's own tokenizer of 49,408 tokens, with the given padding. All of them share one vocabulary. */
export async function standardTokenizer(padTokenId: number): Promise<TokenizerData> {
  standard ??= readStandardVocabulary()
  return {
    ...(await standard),
    bosTokenId: standardVocabSize - 2,
    eosTokenId: standardVocabSize - 1,
    padTokenId,
    modelMaxLength: maxLength,
  }
}

type Vocabulary = Pick<TokenizerData, 'vocab' | 'mergeRanks'>

let standard: Promise<Vocabulary> | null = null

async function readStandardVocabulary(): Promise<Vocabulary> {
  const text = (await promisify(gunzip)(await readFile(standardFile))).toString('utf8')
  const mergeRanks = new Map<string, number>()
  const vocab = new Map<string, number>()
  const alphabet = byteAlphabet()
  const add = (word: string): void => void vocab.set(word, vocab.size)
  for (const symbol of alphabet) add(symbol)
  for (const symbol of alphabet) add(`${symbol}</w>`)
  for (const line of text.split('\n', 1 + standardMerges).slice(1)) {
    mergeRanks.set(line, mergeRanks.size)
    add(line.replace(' ', ''))
  }
  add(startOfText)
  add(endOfText)
  if (vocab.size !== standardVocabSize)
    throw new AppError('bad_file', `file ${standardFile} gives ${vocab.size} tokens, expected ${standardVocabSize}`)
  return { vocab, mergeRanks }
}

async function readVocabulary(folder: string): Promise<Vocabulary> {
  const vocabFile = join(folder, 'vocab.json')
  const vocab = await readOptionalJson(vocabFile)
  const mergesFile = join(folder, 'merges.txt')
  const merges = await readOptionalText(mergesFile)
  if (vocab !== null && merges !== null) {
    const added = (await readOptionalJson(join(folder, 'added_tokens.json'))) ?? {}
    const known = vocabOf(vocab, vocabFile)
    refuseAdded(folder, known, Object.entries(added))
    const lines = merges.split('\n').filter((line, at) => line !== '' && !(at === 0 && line.startsWith('#version')))
    return checked(
      vocabFile,
      known,
      lines.map((line) => pairOf(line, mergesFile)),
    )
  }
  return readTokenizerJson(folder)
}

async function readTokenizerJson(folder: string): Promise<Vocabulary> {
  const file = join(folder, 'tokenizer.json')
  const json = await readJson(file).catch((error: unknown) => {
    if (!(error instanceof AppError) || error.code !== 'model_not_found') throw error
    throw new AppError(
      'model_not_found',
      `folder ${folder} has no tokenizer: neither vocab.json and merges.txt nor tokenizer.json`,
    )
  })
  const { model, added_tokens: added } = json
  if (!isObject(model)) throw new AppError('bad_file', `file ${file} has no model`)
  if (model['type'] !== 'BPE' || model['end_of_word_suffix'] !== '</w>')
    throw new AppError('wrong_architecture', `file ${file} is no tokenizer of CLIP (byte pairs with the ending "</w>")`)
  if (!isObject(model['vocab']) || !Array.isArray(model['merges']))
    throw new AppError('bad_file', `file ${file} has no vocabulary or no merges`)
  const vocab = vocabOf(model['vocab'], file)
  if (Array.isArray(added))
    refuseAdded(
      folder,
      vocab,
      added.map((token) => (isObject(token) ? [String(token['content']), token['id']] : ['?', null])),
    )
  return checked(
    file,
    vocab,
    model['merges'].map((merge) => pairOf(merge, file)),
  )
}

/** Ids are 0, 1, 2 … without gaps, and every merge makes a token out of tokens. */
function checked(
  file: string,
  vocab: ReadonlyMap<string, number>,
  merges: readonly (readonly [string, string])[],
): Vocabulary {
  if (new Set(vocab.values()).size !== vocab.size || [...vocab.values()].some((id) => id >= vocab.size))
    throw new AppError('bad_file', `file ${file}: the ids of its ${vocab.size} tokens are not 0 to ${vocab.size - 1}`)
  const broken = merges.find(([a, b]) => !vocab.has(a) || !vocab.has(b) || !vocab.has(a + b))
  if (broken)
    throw new AppError('bad_file', `file ${file}: the merge "${broken.join(' ')}" has no place in the vocabulary`)
  return { vocab, mergeRanks: new Map(merges.map(([a, b], rank) => [`${a} ${b}`, rank])) }
}

function vocabOf(entries: Record<string, unknown>, file: string): Map<string, number> {
  const vocab = new Map<string, number>()
  for (const [token, id] of Object.entries(entries)) {
    if (!Number.isSafeInteger(id) || (id as number) < 0)
      throw new AppError('bad_file', `file ${file}: token ${JSON.stringify(token)} has the id ${String(id)}`)
    vocab.set(token, id as number)
  }
  return vocab
}

/** Tokens beside the vocabulary are embeddings that somebody trained into the model; they would be split silently. */
function refuseAdded(
  folder: string,
  vocab: ReadonlyMap<string, number>,
  added: readonly (readonly [string, unknown])[],
): void {
  const foreign = added.filter(([token, id]) => vocab.get(token) !== id).map(([token]) => token)
  if (foreign.length > 0)
    throw new AppError(
      'wrong_architecture',
      `folder ${folder}: added tokens that are not in the vocabulary are not supported, this has ${foreign.length}: ${foreign.slice(0, 10).join(' ')}`,
    )
}

/** A merge as "a b" or ["a", "b"]. */
function pairOf(merge: unknown, file: string): readonly [string, string] {
  const parts: unknown = typeof merge === 'string' ? merge.trimEnd().split(' ') : merge
  if (!Array.isArray(parts) || parts.length !== 2 || parts.some((part) => typeof part !== 'string' || part === ''))
    throw new AppError('bad_file', `file ${file} has the merge ${JSON.stringify(merge)}, expected two symbols`)
  return parts as [string, string]
}

/** A special token, which files give as text or as an object with its content. */
function contentOf(token: unknown): string | null {
  const content = isObject(token) ? token['content'] : token
  return typeof content === 'string' ? content : null
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** One printable character a byte, in the order of OpenAI's vocabulary: printable bytes first, as themselves. */
function byteAlphabet(): string[] {
  const bytes = Array.from({ length: 256 }, (_, byte) => byte)
  const isPrintable = (byte: number): boolean =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
  const others = bytes.filter((byte) => !isPrintable(byte)).map((_, index) => String.fromCodePoint(256 + index))
  return [...bytes.filter(isPrintable).map((byte) => String.fromCodePoint(byte)), ...others]
}
