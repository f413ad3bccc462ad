import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeEach, describe, expect, test } from 'vitest'
import { readTokenizer, standardTokenizer } from '#engine/weights/tokenizer-files.ts'
import { temporaryFolder } from '../../support/temporary-folder.ts'
import { tinyModels } from '../../support/tiny-b-single-file.ts'

let folder: string
beforeEach(async () => {
  folder = await temporaryFolder('tokenizer')
})

const json = async (name: string, value: unknown): Promise<void> =>
  await writeFile(join(folder, name), JSON.stringify(value))

test('vocab.json with merges.txt and tokenizer.json alone give the same', async () => {
  const old = await readTokenizer(join(tinyModels, 'tiny-a/tokenizer'))
  expect(old).toEqual(await readTokenizer(join(tinyModels, 'tiny-b/tokenizer')))
  expect(old).toMatchObject({ bosTokenId: 998, eosTokenId: 999, padTokenId: 999, modelMaxLength: 77 })
  expect([...old.mergeRanks].slice(0, 2)).toEqual([
    ['i n', 0],
    ['t h', 1],
  ])
  expect(old.mergeRanks.size).toBe(486)
  expect(old.vocab.get('in')).toBe(512)
  const second = await readTokenizer(join(tinyModels, 'tiny-b/tokenizer_2'))
  expect(second).toEqual({ ...old, padTokenId: 0 })
})

test("the standard tokenizer is CLIP's, of which the small ones are the beginning", async () => {
  const standard = await standardTokenizer(0)
  const small = await readTokenizer(join(tinyModels, 'tiny-b/tokenizer'))
  expect(standard.vocab.size).toBe(49_408)
  expect(standard).toMatchObject({ bosTokenId: 49_406, eosTokenId: 49_407, padTokenId: 0 })
  expect(standard.mergeRanks.size).toBe(48_894)
  expect([...standard.mergeRanks].slice(0, 486)).toEqual([...small.mergeRanks])
  expect([...standard.vocab].slice(0, 998)).toEqual([...small.vocab].sort(([, a], [, b]) => a - b).slice(0, 998))
  // Ids that are printed wherever CLIP is explained.
  expect(['a</w>', 'photo</w>', 'of</w>', 'cat</w>', '!'].map((word) => standard.vocab.get(word))).toEqual([
    320, 1125, 539, 2368, 0,
  ])
})

describe('a tokenizer that is refused', () => {
  const vocab = { a: 0, b: 1, ab: 2, '<|startoftext|>': 3, '<|endoftext|>': 4 }
  const model = { type: 'BPE', end_of_word_suffix: '</w>', vocab, merges: ['a b'] }
  test.each<[string, () => Promise<unknown>, string, string]>([
    ['nothing there', async () => await Promise.resolve(), 'model_not_found', 'has no tokenizer'],
    [
      'only half of it',
      async () => await json('vocab.json', vocab),
      'model_not_found',
      'neither vocab.json and merges.txt',
    ],
    ['no model', async () => await json('tokenizer.json', {}), 'bad_file', 'has no model'],
    [
      'another kind',
      async () => await json('tokenizer.json', { model: { ...model, type: 'Unigram' } }),
      'wrong_architecture',
      'no tokenizer of CLIP',
    ],
    [
      'no merges',
      async () => await json('tokenizer.json', { model: { ...model, merges: null } }),
      'bad_file',
      'no merges',
    ],
    [
      'a merge of three',
      async () => await json('tokenizer.json', { model: { ...model, merges: ['a b c'] } }),
      'bad_file',
      '"a b c", expected two symbols',
    ],
    [
      'a merge into nothing',
      async () => await json('tokenizer.json', { model: { ...model, merges: [['b', 'a']] } }),
      'bad_file',
      'the merge "b a" has no place',
    ],
    [
      'an id twice',
      async () => await json('tokenizer.json', { model: { ...model, vocab: { ...vocab, b: 0 } } }),
      'bad_file',
      'are not 0 to 4',
    ],
    [
      'a hole in the ids',
      async () => await json('tokenizer.json', { model: { ...model, vocab: { ...vocab, b: 9 } } }),
      'bad_file',
      'are not 0 to 4',
    ],
    [
      'an id that is text',
      async () => await json('tokenizer.json', { model: { ...model, vocab: { ...vocab, b: '1' } } }),
      'bad_file',
      'token "b" has the id 1',
    ],
    [
      'added tokens',
      async () => await json('tokenizer.json', { model, added_tokens: [{ content: '<cat-toy>', id: 5 }] }),
      'wrong_architecture',
      'this has 1: <cat-toy>',
    ],
    [
      'an unknown padding',
      async () => {
        await json('tokenizer.json', { model })
        await json('tokenizer_config.json', { pad_token: { content: '[PAD]' } })
      },
      'bad_file',
      'pad_token "[PAD]" is not in the vocabulary',
    ],
    [
      'longer chunks',
      async () => {
        await json('tokenizer.json', { model })
        await json('tokenizer_config.json', { model_max_length: 248 })
      },
      'wrong_architecture',
      'model_max_length is 248, supported: 77',
    ],
  ])('%s', async (_, write, code, message) => {
    await write()
    const expected = { code, message: expect.stringContaining(message) as string }
    await expect(readTokenizer(folder)).rejects.toMatchObject(expected)
  })
})

test('special tokens come from tokenizer_config.json, then special_tokens_map.json, as text or as objects', async () => {
  const source = join(tinyModels, 'tiny-a/tokenizer')
  for (const name of ['vocab.json', 'merges.txt'])
    await writeFile(join(folder, name), await readFile(join(source, name)))
  expect((await readTokenizer(folder)).padTokenId).toBe(999)
  await json('special_tokens_map.json', { pad_token: { content: '!', lstrip: false } })
  expect((await readTokenizer(folder)).padTokenId).toBe(0)
  await json('tokenizer_config.json', { pad_token: '"' })
  expect((await readTokenizer(folder)).padTokenId).toBe(1)
})
