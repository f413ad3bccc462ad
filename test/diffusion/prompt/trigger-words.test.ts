import { describe, expect, test } from 'vitest'
import { chunkPrompt } from '#diffusion/prompt/prompt-chunks.ts'
import { ClipTokenizer } from '#diffusion/prompt/tokenizer.ts'
import {
  splitAtTriggers,
  triggerWords,
  unusedTriggers,
  vectorRows,
  type PromptInversion,
} from '#diffusion/prompt/trigger-words.ts'
import { standardTokenizer } from '#engine/weights/tokenizer-files.ts'

const tokenizer = new ClipTokenizer(await standardTokenizer(0))

function inversion(trigger: string, count = 1): PromptInversion {
  const vectors = (from: number): Float32Array[] =>
    Array.from({ length: count }, (_, index) => Float32Array.of(from + index))
  return { trigger, first: vectors(0), second: vectors(100) }
}

/** The text with each word as `[numbers of its vectors]`, the first inversion's from 0 on. */
function marked(text: string, ...inversions: PromptInversion[]): string {
  const words = triggerWords(inversions)
  const first = Math.min(...words.ids.flat())
  return splitAtTriggers(text, words)
    .map((piece) => (typeof piece === 'string' ? piece : `[${piece.map((id) => id - first).join(' ')}]`))
    .join('')
}

describe('a word is found', () => {
  test.each([
    ['a cat, two cats', 'cat', 'a [0], two cats'],
    ['concatenate the cat.', 'cat', 'concatenate the [0].'],
    ['CAT Cat cAt', 'cat', '[0] [0] [0]'],
    ['a cat', 'CAT', 'a [0]'],
    ['cat2 cat_ cat-like 2cat', 'cat', 'cat2 cat_ [0]-like 2cat'],
    ['x<s0>y', '<s0>', 'x[0]y'],
    ['a sks   dog and sks\u00a0dog', 'sks dog', 'a [0] and [0]'],
    ['café cafe\u0301', 'café', '[0] [0]'],
    ['ein Straßenhund, straße', 'Straße', 'ein Straßenhund, [0]'],
    ['猫 猫猫', '猫', '[0] 猫猫'],
    ['a.b a+b', 'a.b', '[0] a+b'],
    ['(cat)', 'cat', '([0])'],
    ['$& $1', '$&', '[0] $1'],
  ])('%s with %s', (text, trigger, expected) => {
    expect(marked(text, inversion(trigger))).toBe(expected)
  })

  test('the longest first, whatever their order', () => {
    const words = [inversion('sks'), inversion('sks dog', 2), inversion('dog')]
    expect(marked('a sks dog, a sks, a dog', ...words)).toBe('a [1 2], a [0], a [3]')
  })
})

test('a word may be neither empty nor there twice', () => {
  const refusal =
    (...triggers: string[]): (() => unknown) =>
    () =>
      triggerWords(triggers.map((t) => inversion(t)))
  for (const triggers of [[''], [' '], ['cat', 'Cat'], ['a  b', 'a b'], ['\ud800']])
    expect(refusal(...triggers)).toThrow(expect.objectContaining({ code: 'bad_argument', field: 'textualInversions' }))
})

test('each id has its vector in both encoders', () => {
  const words = [inversion('a', 2), inversion('bb', 3)]
  const { ids } = triggerWords(words)
  const [rows, rows2] = [vectorRows(words, 'first'), vectorRows(words, 'second')]
  expect(ids.map((group) => group.map((id) => rows.get(id)![0]))).toEqual([
    [0, 1, 2],
    [0, 1],
  ])
  expect(ids[0].map((id) => rows2.get(id)![0])).toEqual([100, 101, 102])
  expect(new Set(ids.flat()).size).toBe(5)
})

test('words that no text has', () => {
  expect(unusedTriggers([inversion('cat'), inversion('dog')], ['a cat', 'cats'])).toEqual(['dog'])
})

describe('in a prompt', () => {
  const chunksOf = (text: string, ...inversions: PromptInversion[]): ReturnType<typeof chunkPrompt> =>
    chunkPrompt(tokenizer, text, 'prompt', triggerWords(inversions))
  const isVector = (id: number): boolean => id > 100_000

  test('the text round a word keeps its tokens', () => {
    const [ids] = chunksOf('a red cat, sitting', inversion('cat', 2)).ids
    const [plain] = chunksOf('a red , sitting').ids
    expect(ids.filter((id) => !isVector(id)).slice(0, 10)).toEqual(plain.slice(0, 10))
    expect(ids.slice(3, 5).every(isVector)).toBe(true)
  })

  test('a weight is that of each vector', () => {
    const { ids, weights } = chunksOf('a (cat:1.5) x', inversion('cat', 3))
    const own = ids[0].flatMap((id, index) => (isVector(id) ? [weights[0][index]] : []))
    expect(own).toEqual([1.5, 1.5, 1.5])
  })

  test('vectors stay together: what does not fit into a chunk begins the next', () => {
    const { ids, eosIndexes } = chunksOf(`${'word '.repeat(73)}cat end`, inversion('cat', 3))
    expect(ids).toHaveLength(2)
    expect(eosIndexes).toEqual([74, 5])
    expect(ids[0].some(isVector)).toBe(false)
    expect(ids[1].slice(1, 4).every(isVector)).toBe(true)
    expect(chunksOf(`${'word '.repeat(72)}cat end`, inversion('cat', 3)).eosIndexes).toEqual([76, 2])
  })

  test('vectors count: too many of them are refused like too many words', () => {
    expect(chunksOf('cat '.repeat(8), inversion('cat', 75)).ids).toHaveLength(8)
    expect(() => chunksOf('cat '.repeat(9), inversion('cat', 75))).toThrow(
      expect.objectContaining({ code: 'bad_prompt', message: expect.stringContaining('675 tokens need 9 chunks') }),
    )
  })
})
