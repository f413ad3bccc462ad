import { open } from 'node:fs/promises'
import { toF32 } from '#tensor/dtype.ts'
import { tensor, type Tensor } from '#tensor/tensor.ts'
import { AppError } from '../../errors.ts'
import type { Session } from '../backend.ts'
import { clipTextGraph, tokenEmbeddingKey } from '../models/clip-text.ts'
import type { ClipTextConfig } from '../models/clip-text-config.ts'
import type { StoredTensor } from '../weights/checkpoint.ts'
import type { LoraBranches } from '../weights/lora/lora-branches.ts'
import { branchFeeds, type LoraFeeds } from './lora-feeds.ts'
import { createSession, type NetworkSource } from './network-source.ts'

export type TextEncoderOptions = {
  /** Chunks of 77 tokens that are encoded at once. */
  readonly chunks: number
  /** Hidden states are taken this many layers before the last; SDXL's own choice is 1. */
  readonly skipLayers: number
}

export type EncodedText = {
  /** (chunks, 77, hiddenSize), without the final norm. */
  readonly hiddenStates: Tensor
  /** (chunks, projectionDim); null for an encoder without projection. */
  readonly pooled: Tensor | null
}

/** A CLIP text encoder that is loaded for a number of chunks. */
export class TextEncoder implements AsyncDisposable {
  readonly #config: ClipTextConfig
  readonly #tokenTable: StoredTensor
  readonly #session: Session
  readonly #loraTargets: ReadonlySet<string>
  #loras: LoraFeeds = {}

  private constructor(
    config: ClipTextConfig,
    tokenTable: StoredTensor,
    session: Session,
    loraTargets: ReadonlySet<string>,
  ) {
    this.#config = config
    this.#tokenTable = tokenTable
    this.#session = session
    this.#loraTargets = loraTargets
  }

  /** Load the graph of one number of chunks; with `loraTargets` it takes branches at these modules, see {@link setLoras}. */
  static async load(
    source: NetworkSource<ClipTextConfig>,
    options: TextEncoderOptions,
    loraTargets: ReadonlySet<string> = new Set(),
  ): Promise<TextEncoder> {
    const { config, precision, weights } = source
    const tokenTable = weights.get(tokenEmbeddingKey)
    if (!tokenTable || tokenTable.dtype === 'I8')
      throw new AppError('missing_tensors', `text encoder: ${tokenEmbeddingKey} is missing`)
    const pooled = config.projectionDim !== null
    const { chunks: batch, skipLayers } = options
    const graph = clipTextGraph(config, { precision, batch, skipLayers, pooled, loraTargets })
    // Layers that are skipped are not in the graph, and neither are their branches.
    const inputs = new Set(graph.inputs.map(({ name }) => name))
    const present = new Set([...loraTargets].filter((path) => inputs.has(`${path}.lora_A`)))
    // It runs once a prompt: repacking its weights would take longer than it saves.
    return new TextEncoder(
      config,
      tokenTable,
      await createSession(source, [graph], { weightsInPlace: true, keepActivations: false }),
      present,
    )
  }

  /** Set the branches of the following encodings: one for each of the targets that it was loaded with. */
  setLoras(branches: LoraBranches): void {
    this.#loras = branchFeeds('text encoder', this.#loraTargets, branches)
  }

  /**
   * Encode chunks of 77 token ids; `eosPositions` says where each chunk's text ends. `vectors` are embeddings for ids
   * beyond the table of tokens, of textual inversions.
   */
  async encode(
    ids: readonly (readonly number[])[],
    eosPositions: readonly number[],
    vectors: ReadonlyMap<number, Float32Array> = new Map(),
  ): Promise<EncodedText> {
    const { hiddenSize } = this.#config
    const wanted = new Set(ids.flat())
    const own = [...vectors].filter(([id]) => wanted.delete(id))
    const wrong = own.find(([, vector]) => vector.length !== hiddenSize)
    if (wrong)
      throw new AppError('internal', `text encoder: a vector of ${wrong[1].length} values for ${hiddenSize} channels`)
    const table = await readTokenRows(this.#tokenTable, wanted)
    for (const [id, vector] of own) table.set(id, vector)
    const data = new Float32Array(ids.length * ids[0].length * hiddenSize)
    ids.flat().forEach((id, position) => data.set(table.get(id)!, position * hiddenSize))
    const tokenEmbeds = tensor([ids.length, ids[0].length, hiddenSize], data)
    const positions = { shape: [ids.length], data: BigInt64Array.from(eosPositions, BigInt) }
    const hasPooled = this.#config.projectionDim !== null
    const outputs = await this.#session.run({
      token_embeds: tokenEmbeds,
      ...(hasPooled && { eos_positions: positions }),
      ...this.#loras,
    })
    return { hiddenStates: outputs['hidden_states'], pooled: outputs['pooled'] ?? null }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#session.close()
  }
}

/** The rows of the token table for some ids, as fp32; the table itself is never read whole. */
async function readTokenRows(table: StoredTensor, ids: ReadonlySet<number>): Promise<Map<number, Float32Array>> {
  const [rows, width] = table.shape as [number, number]
  const rowBytes = width * (table.dtype === 'F32' ? 4 : 2)
  const outside = [...ids].find((id) => id >= rows)
  if (outside !== undefined)
    throw new AppError(
      'wrong_architecture',
      `tokenizer: token ${outside} is outside the text encoder's table of ${rows} tokens`,
    )
  const result = new Map<number, Float32Array>()
  if ('bytes' in table.source) {
    for (const id of ids)
      result.set(id, toF32(table.dtype, table.source.bytes.slice(id * rowBytes, (id + 1) * rowBytes)))
    return result
  }
  const { file, offset } = table.source
  await using handle = await open(file, 'r')
  for (const id of ids) {
    const bytes = new Uint8Array(rowBytes)
    const { bytesRead } = await handle.read(bytes, 0, rowBytes, offset + id * rowBytes)
    if (bytesRead !== rowBytes) throw new AppError('bad_file', `file ${file} ends inside the table of token embeddings`)
    result.set(id, toF32(table.dtype, bytes))
  }
  return result
}
