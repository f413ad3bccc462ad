import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { ClipTokenizer } from '#diffusion/prompt/tokenizer.ts'
import type { TokenizerData } from '#engine/weights/checkpoint.ts'
import { readTokenizer, standardTokenizer } from '#engine/weights/tokenizer-files.ts'

type Name = 'standard' | 'standard2' | 'pocket' | 'pocket2'
const golden = JSON.parse(readFileSync('test/golden/prompts/tokens.json', 'utf8')) as ({ text: string } & Record<
  Name,
  number[]
>)[]
const endMark = 49407

const data: Record<Name, TokenizerData> = {
  standard: await standardTokenizer(endMark),
  standard2: await standardTokenizer(0),
  pocket: await readTokenizer('test/golden/models/pocket/tokenizer'),
  pocket2: await readTokenizer('test/golden/models/pocket/tokenizer_2'),
}
const names = Object.keys(data) as Name[]

describe.each(names)("ids of transformers' CLIPTokenizer: %s", (name) => {
  const tokenizer = new ClipTokenizer(data[name])

  test.each(golden)('$text', (row) => {
    expect(tokenizer.encode(row.text)).toEqual(row[name])
  })

  test('the cache changes nothing', () => {
    for (const row of [...golden, ...golden]) expect(tokenizer.encode(row.text)).toEqual(row[name])
  })
})

describe('a whole vocabulary in use', () => {
  test('more words than the cache holds', () => {
    const tokenizer = new ClipTokenizer(data.standard)
    const before = tokenizer.encode('astronaut')
    for (let i = 0; i < 12_000; i++) tokenizer.encode(`w${i.toString(26).replaceAll(/\d/g, 'x')}y${'z'.repeat(i % 9)}`)
    expect(tokenizer.encode('astronaut')).toEqual(before)
  })

  test('one word of 100,000 characters', () => {
    const ids = new ClipTokenizer(data.standard).encode('ab'.repeat(50_000))
    expect(ids.length).toBeGreaterThan(10_000)
    expect(new Set(ids.slice(10, 100)).size).toBeLessThan(5)
  })

  test('a byte that the vocabulary lacks becomes the unknown token', () => {
    const vocab = new Map([...data.standard.vocab].filter(([token]) => token !== 'q'))
    const mergeRanks = new Map([...data.standard.mergeRanks].filter(([pair]) => !pair.split(' ').includes('q')))
    expect(new ClipTokenizer({ ...data.standard, vocab, mergeRanks }).encode('qqx')).toEqual([
      endMark,
      endMark,
      vocab.get('x</w>'),
    ])
  })
})

describe('refused', () => {
  const make = (changes: Partial<TokenizerData>) => () => new ClipTokenizer({ ...data.pocket, ...changes })

  test('another length than CLIP has positions for', () => {
    expect(make({ modelMaxLength: 512 })).toThrow(
      expect.objectContaining({ code: 'bad_file', message: "tokenizer: model_max_length 512 is not CLIP's 77" }),
    )
  })

  test('a special token without a name', () => {
    expect(make({ padTokenId: 999_999 })).toThrow(
      expect.objectContaining({ code: 'bad_file', message: expect.stringContaining('pad token id 999999') as string }),
    )
  })

  test('half of a surrogate pair', () => {
    expect(() => new ClipTokenizer(data.pocket).encode('a \ud83d b')).toThrow(
      expect.objectContaining({ code: 'bad_prompt' }),
    )
  })
})
