// transformers' config.json of a CLIPTextModel or CLIPTextModelWithProjection.
import type { ClipTextConfig } from '../models/clip-text-config.ts'
import { choice, count, fraction, layerCount, unsupported, type Options } from './config-options.ts'
import type { TokenizerData } from './checkpoint.ts'

/** Tokens in a chunk; SDXL's conditioning is made of such chunks. */
export const clipChunkLength = 77

/**
 * The configuration in a text encoder's config.json; `withProjection` tells CLIPTextModelWithProjection.
 * Throws `wrong_architecture` for what is not implemented, `bad_file` for a value of the wrong kind.
 */
export function clipTextConfigOf(options: Options, withProjection: boolean): ClipTextConfig {
  const config: ClipTextConfig = {
    vocabSize: count(options, 'vocab_size', 49_408),
    hiddenSize: count(options, 'hidden_size', 512),
    intermediateSize: count(options, 'intermediate_size', 2048),
    numHiddenLayers: layerCount(options, 'num_hidden_layers', 12),
    numAttentionHeads: count(options, 'num_attention_heads', 8),
    maxPositionEmbeddings: count(options, 'max_position_embeddings', clipChunkLength),
    hiddenAct: choice(options, 'hidden_act', ['quick_gelu', 'gelu'], 'quick_gelu'),
    layerNormEps: fraction(options, 'layer_norm_eps', 1e-5),
    projectionDim: withProjection ? count(options, 'projection_dim', 512) : null,
  }
  if (config.maxPositionEmbeddings !== clipChunkLength)
    throw unsupported(options, 'max_position_embeddings', `supported: ${clipChunkLength}`)
  if (config.hiddenSize % config.numAttentionHeads !== 0)
    throw unsupported(options, 'num_attention_heads', `a divisor of hidden_size ${config.hiddenSize}`)
  return config
}

/**
 * Check that the config and the tokenizer mean the same end-of-text token: the pooled embedding is taken there.
 * transformers takes the highest id where the config says 2, as SDXL's own does.
 */
export function checkEosToken(options: Options, tokenizer: TokenizerData): void {
  const id = count(options, 'eos_token_id', 49_407)
  // The ids are 0, 1, 2 … without gaps.
  const highest = tokenizer.vocab.size - 1
  if (id !== tokenizer.eosTokenId && !(id === 2 && highest === tokenizer.eosTokenId))
    throw unsupported(options, 'eos_token_id', `the tokenizer's is ${tokenizer.eosTokenId}`)
}
