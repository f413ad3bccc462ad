import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { chunkPrompt, padChunks } from '#diffusion/prompt/prompt-chunks.ts'
import { ClipTokenizer } from '#diffusion/prompt/tokenizer.ts'
import { readTokenizer } from '#engine/weights/tokenizer-files.ts'

type Chunk = { ids: number[]; weights: number[] }
const golden = JSON.parse(readFileSync('test/golden/prompts/chunks.json', 'utf8')) as {
  text: string
  pocket: Chunk[]
  pocket2: Chunk[]
}[]
const tokenizers = {
  pocket: new ClipTokenizer(await readTokenizer('test/golden/models/pocket/tokenizer')),
  pocket2: new ClipTokenizer(await readTokenizer('test/golden/models/pocket/tokenizer_2')),
}

describe.each(['pocket', 'pocket2'] as const)('%s', (name) => {
  const tokenizer = tokenizers[name]

  test.each(golden)('ids and weights of $text', (row) => {
    const { ids, weights, eosIndexes } = chunkPrompt(tokenizer, row.text)
    expect(ids).toEqual(row[name].map((chunk) => chunk.ids))
    expect(weights).toEqual(row[name].map((chunk) => Float32Array.from(chunk.weights)))
    expect(eosIndexes).toEqual(row[name].map((chunk) => chunk.ids.indexOf(tokenizer.eosTokenId)))
  })

  test('75 tokens are one chunk, 76 are two', () => {
    expect(chunkPrompt(tokenizer, 'word '.repeat(75)).ids).toHaveLength(1)
    expect(chunkPrompt(tokenizer, 'word '.repeat(76)).ids).toHaveLength(2)
  })

  test('padding appends empty chunks', () => {
    const one = chunkPrompt(tokenizer, '(a cat:1.2)')
    const empty = chunkPrompt(tokenizer, '')
    const three = padChunks(tokenizer, one, 3)
    expect(three.ids).toEqual([one.ids[0], empty.ids[0], empty.ids[0]])
    expect(three.weights).toEqual([one.weights[0], empty.weights[0], empty.weights[0]])
    expect(three.eosIndexes).toEqual([one.eosIndexes[0], 1, 1])
    expect(padChunks(tokenizer, one, 1)).toEqual(one)
    expect(() => padChunks(tokenizer, three, 2)).toThrow(expect.objectContaining({ code: 'internal' }))
  })

  test('8 chunks are allowed, a token more is not', () => {
    expect(chunkPrompt(tokenizer, 'word '.repeat(600)).ids).toHaveLength(8)
    expect(() => chunkPrompt(tokenizer, 'word '.repeat(601))).toThrow(
      expect.objectContaining({
        code: 'bad_prompt',
        message: 'prompt: 601 tokens need 9 chunks of 75; at most 8 are allowed',
      }),
    )
  })

  test('weights that overflow are refused', () => {
    const deep = (depth: number) => '('.repeat(depth) + 'x' + ')'.repeat(depth)
    expect(chunkPrompt(tokenizer, deep(900)).weights[0][1]).toBeGreaterThan(1e37)
    expect(() => chunkPrompt(tokenizer, deep(1000))).toThrow(expect.objectContaining({ code: 'bad_prompt' }))
    expect(() => chunkPrompt(tokenizer, deep(8000))).toThrow(expect.objectContaining({ code: 'bad_prompt' }))
  })
})
