// Prompts → what the UNet is conditioned on, as SDXL does it (arXiv 2307.01952, section 2.1): hidden states of both text
// encoders side by side, and the second one's pooled embedding. A refiner has the second one alone.
import type { TextEncoder } from '#engine/networks/text-encoder.ts'
import { tensor, zeros, type Tensor } from '#tensor/tensor.ts'
import { AppError } from '../errors.ts'
import { checkFinite } from './check-finite.ts'
import type { DenoiserModel, DenoiserNetworks } from './networks.ts'
import { chunkPrompt, padChunks, type PromptChunks } from './prompt/prompt-chunks.ts'
import { triggerWords, vectorRows, type PromptInversion, type TriggerWords } from './prompt/trigger-words.ts'
import { applyTokenWeights } from './prompt/weighting.ts'

export type Prompts = {
  readonly prompt: string
  /** Null copies `prompt`. */
  readonly prompt2: string | null
  readonly negativePrompt: string | null
  readonly negativePrompt2: string | null
  /** Layers skipped beyond SDXL's own one; null: none. */
  readonly clipSkip: number | null
  /** Words of any of the prompts that stand for vectors. */
  readonly inversions: readonly PromptInversion[]
}

/** One prompt as the UNet takes it. */
export type PromptEmbeds = {
  /** (1, 77 · chunks, C1 + C2) */
  readonly promptEmbeds: Tensor
  /** (1, projectionDim) */
  readonly pooledPromptEmbeds: Tensor
}

export type EncodedPrompts = { readonly positive: PromptEmbeds; readonly negative: PromptEmbeds | null }

/** Hidden states (1, 77 · chunks, C) and the first chunk's pooled embedding. */
type EncodedChunks = { readonly states: Tensor; readonly pooled: Tensor | null }

/** SDXL is conditioned on the penultimate hidden states. */
const penultimate = 1

/** One prompt, cut into chunks for each encoder that there is. */
type ChunkPair = { readonly first: PromptChunks | null; readonly second: PromptChunks; readonly skipLayers: number }

/** Throws `bad_prompt` or `bad_argument` for what is wrong with the prompts, negative ones included, whether used or not. */
export function checkPrompts(model: DenoiserModel, prompts: Prompts): void {
  chunkPositive(model, prompts)
  chunkNegative(model, prompts)
}

/** Encode the prompt, and the negative one when guidance needs it; all are padded to the same number of chunks. */
export async function encodePrompts(
  model: DenoiserModel,
  networks: DenoiserNetworks,
  prompts: Prompts,
  useGuidance: boolean,
): Promise<EncodedPrompts> {
  const positive = chunkPositive(model, prompts)
  const negative = useGuidance ? chunkNegative(model, prompts) : null
  const pairs = negative ? [positive, negative] : [positive]
  const count = Math.max(...pairs.flatMap(({ first, second }) => [first?.ids.length ?? 0, second.ids.length]))

  const [rows, rows2] = [vectorRows(prompts.inversions, 'first'), vectorRows(prompts.inversions, 'second')]
  const embeds: PromptEmbeds[] = []
  for (const { first, second, skipLayers } of pairs) {
    const options = { chunks: 1, skipLayers }
    let states: Tensor | null = null
    if (first && model.tokenizer) {
      const encoder = await networks.textEncoder('textEncoder', options)
      ;({ states } = await encodeChunks(encoder, padChunks(model.tokenizer, first, count), rows))
      checkFinite(states, 'the output of the first text encoder')
    }
    const encoder2 = await networks.textEncoder('textEncoder2', options)
    const { states: states2, pooled } = await encodeChunks(encoder2, padChunks(model.tokenizer2, second, count), rows2)
    checkFinite(states2, 'the output of the second text encoder')
    checkFinite(pooled!, 'the pooled output of the second text encoder')
    embeds.push({ promptEmbeds: states ? sideBySide(states, states2) : states2, pooledPromptEmbeds: pooled! })
  }
  const encoded = embeds[0]
  if (!useGuidance) return { positive: encoded, negative: null }
  return { positive: encoded, negative: embeds[1] ?? zerosLike(encoded) }
}

function chunkPositive(model: DenoiserModel, { clipSkip, inversions, prompt, prompt2 }: Prompts): ChunkPair {
  return {
    ...chunkPair(
      model,
      { text: prompt, field: 'prompt' },
      { text: prompt2, field: 'prompt_2' },
      triggerWords(inversions),
    ),
    skipLayers: skippedLayers(model, clipSkip),
  }
}

/** The two negative prompts, or null for zero embeddings: SDXL's meaning of "no negative prompt at all". */
function chunkNegative(
  model: DenoiserModel,
  { inversions, negativePrompt, negativePrompt2 }: Prompts,
): ChunkPair | null {
  if (negativePrompt === null && negativePrompt2 === null && model.forceZerosForEmptyPrompt) return null
  const first = { text: negativePrompt ?? '', field: 'negative_prompt' }
  return {
    ...chunkPair(model, first, { text: negativePrompt2, field: 'negative_prompt_2' }, triggerWords(inversions)),
    skipLayers: penultimate,
  }
}

/** A text and the field that it came in. */
type Field<Text> = { readonly text: Text; readonly field: string }

/** Both prompts for a base model; a refiner, which has one encoder, takes the first prompt, as the reference does. */
function chunkPair(
  { tokenizer, tokenizer2 }: DenoiserModel,
  first: Field<string>,
  second: Field<string | null>,
  words: TriggerWords,
): Pick<ChunkPair, 'first' | 'second'> {
  if (!tokenizer) return { first: null, second: chunkPrompt(tokenizer2, first.text, first.field, words) }
  const { text, field } = second.text === null ? first : { ...second, text: second.text }
  return {
    first: chunkPrompt(tokenizer, first.text, first.field, words),
    second: chunkPrompt(tokenizer2, text, field, words),
  }
}

/** Layers to leave out of both encoders; diffusers counts clip_skip from the penultimate layer, and for the prompt only. */
function skippedLayers({ textConfig, textConfig2 }: DenoiserModel, clipSkip: number | null): number {
  const layers = Math.min(textConfig?.numHiddenLayers ?? Infinity, textConfig2.numHiddenLayers)
  const skipLayers = (clipSkip ?? 0) + penultimate
  if (skipLayers > layers)
    throw new AppError(
      'bad_argument',
      `clip_skip: ${clipSkip} is more than this model's ${layers}-layer text encoder allows (1 to ${layers - 1})`,
    )
  return skipLayers
}

/** Encode a prompt chunk by chunk, so that its numbers do not depend on how many there are; pooled is the first one's. */
async function encodeChunks(
  encoder: TextEncoder,
  { ids, weights, eosIndexes }: PromptChunks,
  rows: ReadonlyMap<number, Float32Array>,
): Promise<EncodedChunks> {
  const states: Tensor[] = []
  let pooled: Tensor | null = null
  for (const [index, chunkIds] of ids.entries()) {
    const encoded = await encoder.encode([chunkIds], [eosIndexes[index]], rows)
    states.push(applyTokenWeights(encoded.hiddenStates, [weights[index]]))
    pooled ??= encoded.pooled
  }
  return { states: endToEnd(states), pooled }
}

/** n × (1, 77, C) → (1, 77·n, C) */
function endToEnd(chunks: readonly Tensor[]): Tensor {
  const [, length, channels] = chunks[0].shape as [number, number, number]
  const data = new Float32Array(chunks.length * length * channels)
  chunks.forEach((chunk, index) => data.set(chunk.data, index * length * channels))
  return tensor([1, chunks.length * length, channels], data)
}

/** (1, T, A) and (1, T, B) → (1, T, A + B) */
function sideBySide(a: Tensor, b: Tensor): Tensor {
  const [, length, widthA] = a.shape as [number, number, number]
  const widthB = b.shape[2]
  const data = new Float32Array(length * (widthA + widthB))
  for (let row = 0; row < length; row++) {
    data.set(a.data.subarray(row * widthA, (row + 1) * widthA), row * (widthA + widthB))
    data.set(b.data.subarray(row * widthB, (row + 1) * widthB), row * (widthA + widthB) + widthA)
  }
  return tensor([1, length, widthA + widthB], data)
}

function zerosLike(embeds: PromptEmbeds): PromptEmbeds {
  return { promptEmbeds: zeros(embeds.promptEmbeds.shape), pooledPromptEmbeds: zeros(embeds.pooledPromptEmbeds.shape) }
}
