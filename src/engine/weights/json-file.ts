import { readFile, stat } from 'node:fs/promises'
import { AppError } from '../../errors.ts'

/** Larger than any config or tokenizer.json; a larger file is no such thing. */
const maxBytes = 64 * 1024 * 1024

/** The object in a JSON file. Throws `model_not_found` when there is no file, `bad_file` when it is no JSON object. */
export async function readJson(path: string): Promise<Record<string, unknown>> {
  const value = await readOptionalJson(path)
  if (value === null) throw new AppError('model_not_found', `file ${path} does not exist`)
  return value
}

/** Like {@link readJson}, but null when there is no file. */
export async function readOptionalJson(path: string): Promise<Record<string, unknown> | null> {
  const text = await readOptionalText(path)
  if (text === null) return null
  let value: unknown
  try {
    value = JSON.parse(withInfinities(text))
  } catch (error) {
    throw new AppError('bad_file', `file ${path} is not JSON`, { cause: error })
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new AppError('bad_file', `file ${path} does not hold a JSON object`)
  return value as Record<string, unknown>
}

/** Python writes infinity as a word, which JSON has not; a number too large for a double means the same. */
function withInfinities(text: string): string {
  return text.replace(/"(?:\\.|[^"\\])*"|\bInfinity\b/g, (token) => (token === 'Infinity' ? '1e999' : token))
}

/** A UTF-8 text file; null when there is none. Throws `bad_file` when it cannot be read. */
export async function readOptionalText(path: string): Promise<string | null> {
  try {
    const { size } = await stat(path)
    if (size > maxBytes) throw new AppError('bad_file', `file ${path} has ${size} bytes, more than ${maxBytes}`)
    return await readFile(path, 'utf8')
  } catch (error) {
    if (error instanceof AppError) throw error
    const code = error instanceof Error && 'code' in error ? error.code : null
    if (code === 'ENOENT' || code === 'ENOTDIR') return null
    throw new AppError('bad_file', `file ${path} cannot be read (${String(code)})`, { cause: error })
  }
}
