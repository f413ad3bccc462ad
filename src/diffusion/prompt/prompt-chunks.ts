// A prompt as the text encoders take it: chunks of 77 tokens, each with its own start and end. Nothing is cut off.
import { AppError } from '../../errors.ts'
import { parsePrompt } from './parse-prompt.ts'
import { chunkLength, type ClipTokenizer } from './tokenizer.ts'

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
 * Tokens and weights of `text`. Throws bad_prompt above 8 chunks (600 tokens) or when a weight is beyond fp32; the message
 * calls the text `field`.
 */
export function chunkPrompt(tokenizer: ClipTokenizer, text: string, field = 'prompt'): PromptChunks {
  const tokens: number[] = []
  const weights: number[] = []
  for (const segment of parsePrompt(text)) {
    if (!Number.isFinite(Math.fround(segment.weight)))
      throw new AppError('bad_prompt', `${field}: the brackets' weights multiply to ${segment.weight}, beyond ±3.4e38`)
    for (const id of tokenizer.encode(segment.text)) {
      tokens.push(id)
      weights.push(segment.weight)
    }
  }
  const count = Math.max(1, Math.ceil(tokens.length / tokensAChunk))
  if (count > maxChunks)
    throw new AppError(
      'bad_prompt',
      `${field}: ${tokens.length} tokens need ${count} chunks of ${tokensAChunk}; at most ${maxChunks} are allowed`,
    )
  const starts = Array.from({ length: count }, (_, i) => i * tokensAChunk)
  return joinChunks(
    starts.map((start) => {
      const end = start + tokensAChunk
      return oneChunk(tokenizer, tokens.slice(start, end), weights.slice(start, end))
    }),
  )
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
