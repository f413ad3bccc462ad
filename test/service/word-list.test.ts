import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { loadWordList, parseWordList, refuse } from '../../src/service/accounts/word-list.ts'
import { temporaryFolder } from '../support/temporary-folder.ts'

const list = parseWordList(
  ['# what we do not draw', 'grue', '', 'purple  dragon # both words', 'Straße', 'naïve', '龍', "rock'n'roll"].join(
    '\r\n',
  ),
  'words.txt',
)
const isRefused = (prompt: string): boolean => {
  try {
    refuse(list, { prompt })
    return false
  } catch (error) {
    expect(error).toMatchObject({
      code: 'prompt_refused',
      field: 'prompt',
      message: 'prompt: this server does not make such pictures',
    })
    return true
  }
}

describe('a word list', () => {
  it.each([
    'grue',
    'a GRUE in the dark',
    'dark,grue.',
    '(grue:1.4)',
    'the "grue"',
    'grue-like',
    'a purple dragon',
    'Purple\n Dragon',
    'purple, dragon',
    'a STRASSE at night',
    'strasse',
    // Decomposed, full width, with a soft hyphen, with a zero width space.
    'nai\u0308ve art',
    'ｇｒｕｅ',
    'gr\u00adue',
    'gr\u200bue',
    'ℊrue',
    '龍',
    'rock ’n’ roll',
  ])('refuses %j', (prompt) => {
    expect(isRefused(prompt)).toBe(true)
  })

  it.each([
    '',
    'gruesome',
    'congrue',
    'a dragon in purple',
    'purple',
    'purple dragons',
    'strass e',
    'naive',
    'what we do not draw',
  ])('lets %j pass', (prompt) => {
    expect(isRefused(prompt)).toBe(false)
  })

  it('looks at every prompt that is there, and names its field', () => {
    expect(() => refuse(list, { prompt: 'fine', prompt2: null })).not.toThrow()
    expect(() => refuse(list, { prompt: 'fine', prompt2: 'a grue' })).toThrow(
      expect.objectContaining({ code: 'prompt_refused', field: 'prompt2' }),
    )
  })

  it('may be empty', () => {
    expect(() => refuse(parseWordList('# nothing\n', 'words.txt'), { prompt: 'a grue' })).not.toThrow()
  })

  it('is a file of UTF-8 with a word on every line', async () => {
    const file = path.join(await temporaryFolder('words'), 'words.txt')
    await writeFile(file, '\ufeffgrue\npurple dragon\n')
    expect(await loadWordList(file)).toEqual({ phrases: [['grue'], ['purple', 'dragon']] })
    await writeFile(file, 'grue\n\n!!!\n')
    await expect(loadWordList(file)).rejects.toMatchObject({
      code: 'bad_argument',
      message: `word list ${file}, line 3: no word in "!!!"`,
    })
    await writeFile(file, Buffer.from([0x67, 0xff, 0xfe]))
    await expect(loadWordList(file)).rejects.toMatchObject({ message: `word list ${file}: cannot be read (no UTF-8)` })
    await expect(loadWordList(`${file}.not`)).rejects.toThrow(/: cannot be read \(ENOENT\)$/)
  })
})
