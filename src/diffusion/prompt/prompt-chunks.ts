// A prompt as the text encoders take it: chunks of 77 tokens, each with its own start and end. Nothing is cut off.
import { AppError } from '../../errors.ts'
import { parsePrompt } from './parse-prompt.ts'
import { chunkLength, type ClipTokenizer } from './tokenizer.ts'
import { splitAtTriggers, type TriggerWords } from './trigger-words.ts'

const tokensAChunk = chunkLength - 2
const maxChunks = 8

/** One entry a chunk in each list; there is at least one chunk. */
export type PromptChunks = {
  /** 77 ids each: start, up to 75 tokens, end, padding. */
  readonly ids: readonly (readonly number[])[]
  /** 77 weights each; 1 for start, end and padding. */
  readonly weights: readonly Float32Array[]
  /** Position of the first end token, where the encoder pools. */
  readonly eosIndexes: readonly number[]
}

/**
 * Tokens and weights of `text`, in which `words` stand for vectors. Throws bad_prompt above 8 chunks (600 tokens) or when
 * a weight is beyond fp32; the message calls the text `field`. The vectors of a word stay in one chunk: where they do not
 * fit into the rest of one, they begin the next.
 */
export function chunkPrompt(
  tokenizer: ClipTokenizer,
  text: string,
  field = 'prompt',
  words: TriggerWords = { pattern: null, ids: [] },
): PromptChunks {
  const chunks: OpenChunk[] = [{ tokens: [], weights: [] }]
  let count = 0
  const add = (ids: readonly number[], weight: number): void => {
    let chunk = chunks.at(-1)!
    if (chunk.tokens.length + ids.length > tokensAChunk) chunks.push((chunk = { tokens: [], weights: [] }))
    count += ids.length
    for (const id of ids) {
      chunk.tokens.push(id)
      chunk.weights.push(weight)
    }
  }
  for (const { text: segment, weight } of parsePrompt(text)) {
    if (!Number.isFinite(Math.fround(weight)))
      throw new AppError('bad_prompt', `${field}: the brackets' weights multiply to ${weight}, beyond ±3.4e38`)
    for (const piece of splitAtTriggers(segment, words)) {
      if (typeof piece !== 'string') add(piece, weight)
      else for (const id of tokenizer.encode(piece)) add([id], weight)
    }
  }
  if (chunks.length > maxChunks)
    throw new AppError(
      'bad_prompt',
      `${field}: ${count} tokens need ${chunks.length} chunks of ${tokensAChunk}; at most ${maxChunks} are allowed`,
    )
  return joinChunks(chunks.map(({ tokens, weights }) => oneChunk(tokenizer, tokens, weights)))
}

/** `chunks` followed by empty ones until there are `count`. */
export function padChunks(tokenizer: ClipTokenizer, chunks: PromptChunks, count: number): PromptChunks {
  const missing = count - chunks.ids.length
  if (missing < 0)
    throw new AppError('internal', `padChunks: ${chunks.ids.length} chunks are more than the ${count} asked for`)
  const empty = joinChunks(Array.from({ length: missing }, () => oneChunk(tokenizer, [], [])))
  return {
    ids: [...chunks.ids, ...empty.ids],
    weights: [...chunks.weights, ...empty.weights],
    eosIndexes: [...chunks.eosIndexes, ...empty.eosIndexes],
  }
}

/** Tokens and their weights, up to 75. */
type OpenChunk = { readonly tokens: number[]; readonly weights: number[] }

type Chunk = { readonly ids: readonly number[]; readonly weights: Float32Array; readonly eosIndex: number }

function oneChunk(tokenizer: ClipTokenizer, tokens: readonly number[], tokenWeights: readonly number[]): Chunk {
  const { bosTokenId, eosTokenId, padTokenId } = tokenizer
  const padding = Array.from({ length: tokensAChunk - tokens.length }, () => padTokenId)
  const ids = [bosTokenId, ...tokens, eosTokenId, ...padding]
  const weights = new Float32Array(chunkLength).fill(1)
  weights.set(tokenWeights, 1)
  return { ids, weights, eosIndex: ids.indexOf(eosTokenId) }
}

function joinChunks(chunks: readonly Chunk[]): PromptChunks {
  return {
    ids: chunks.map(({ ids }) => ids),
    weights: chunks.map(({ weights }) => weights),
    eosIndexes: chunks.map(({ eosIndex }) => eosIndex),
  }
}
