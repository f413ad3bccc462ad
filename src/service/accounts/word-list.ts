// Words that an operator refuses in prompts.
import { readFile } from 'node:fs/promises'
import { AppError } from '../../errors.ts'

/** Words and phrases, each as its normalised words. */
export type WordList = { readonly phrases: readonly (readonly string[])[] }

/**
 * Read an operator's list: a word or phrase a line, UTF-8; empty lines and what follows a # are skipped. Throws
 * `bad_argument`, which names the line.
 */
export async function loadWordList(file: string): Promise<WordList> {
  return parseWordList(await textOf(file), file)
}

/** The list in `text`; `source` names it in errors. */
export function parseWordList(text: string, source: string): WordList {
  const phrases = text.split(/\r?\n/).flatMap((line, index) => {
    const entry = line.replace(/#.*/, '').trim()
    if (entry === '') return []
    const words = wordsOf(entry)
    if (words.length === 0)
      throw new AppError('bad_argument', `word list ${source}, line ${index + 1}: no word in ${JSON.stringify(entry)}`)
    return [words]
  })
  return { phrases }
}

/**
 * Throws `prompt_refused` when a prompt has a word or phrase of the list, as whole words, whatever its case and Unicode
 * spelling. `prompts` are by the names of their fields; the error names the field, but not the word.
 */
export function refuse(list: WordList, prompts: Readonly<Record<string, string | null>>): void {
  if (list.phrases.length === 0) return
  for (const [field, prompt] of Object.entries(prompts)) {
    if (prompt === null) continue
    // No word holds a space, so that a phrase is found between spaces only.
    const words = ` ${wordsOf(prompt).join(' ')} `
    if (list.phrases.some((phrase) => words.includes(` ${phrase.join(' ')} `)))
      throw new AppError('prompt_refused', `${field}: this server does not make such pictures`, { field })
  }
}

/** Words in their compatible, caseless form (NFKC_Casefold in essence); invisible characters do not split them. */
function wordsOf(text: string): string[] {
  const folded = text
    .normalize('NFKC')
    .replaceAll(/\p{Default_Ignorable_Code_Point}/gu, '')
    // Twice: ß and its capital fold to ss only by way of upper case.
    .toUpperCase()
    .toLowerCase()
    .normalize('NFKC')
  return folded.match(/[\p{L}\p{N}\p{M}]+/gu) ?? []
}

async function textOf(file: string): Promise<string> {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(await readFile(file))
  } catch (error) {
    const reason = error instanceof TypeError ? 'no UTF-8' : (error as NodeJS.ErrnoException).code
    throw new AppError('bad_argument', `word list ${file}: cannot be read (${reason})`, { cause: error })
  }
}
