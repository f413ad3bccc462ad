// `sepia concepts`: the things that a small model knows, so that a newcomer finds something to ask for.
import { readFileSync } from 'node:fs'
import path from 'node:path'
import type { Config } from '../config.ts'
import { AppError } from '../errors.ts'
import { locateModel, type LibraryOptions } from './asset-places.ts'
import type { Terminal } from './terminal.ts'

/** The options of `sepia concepts`, as typed. */
export type ConceptsOptions = LibraryOptions & { readonly model?: string; readonly json?: boolean }

/** A thing that the model has seen: its usual name, and others. */
export type Concept = { readonly name: string; readonly also: readonly string[] }

/** What a model's concepts.json says: everything its captions spoke of. */
export type ConceptList = {
  readonly concepts: readonly Concept[]
  readonly styles: readonly string[]
  readonly colours: readonly string[]
  readonly places: readonly string[]
}

const fileName = 'concepts.json'

/**
 * Print the concepts whose names contain the word, all of them without one; with --json one object. Finding none is no
 * error. Throws `not_found` for a model without a list, `bad_file` for a damaged one, `bad_argument` for an empty word.
 */
export async function concepts(
  word: string | undefined,
  options: ConceptsOptions,
  config: Config,
  { stdout, stderr }: Terminal,
): Promise<void> {
  if (word?.trim() === '') throw new AppError('bad_argument', 'concepts: the word must not be empty, got ""')
  const model = path.resolve(
    options.model === undefined ? config.modelPath : await locateModel('--model', options.model, options, config),
  )
  const list = readConcepts(model)
  const found = list.concepts.filter(({ also, name }) => word === undefined || matches([name, ...also], word))
  if (options.json) {
    stdout.write(`${JSON.stringify({ ...list, concepts: found })}\n`)
    return
  }
  for (const { also, name } of found) stdout.write(`${name}${also.length > 0 ? `, also: ${also.join(', ')}` : ''}\n`)
  if (word === undefined) {
    stdout.write(`\nStyles: ${list.styles.join(', ')}\nBackgrounds: ${list.colours.join(', ')}\n`)
    stdout.write(`Places: ${list.places.join(', ')}\n`)
  } else if (found.length === 0) stderr.write(`None of ${list.concepts.length} concepts has "${word}" in its name.\n`)
}

/** Whether one of the names contains the word, in whatever case. */
function matches(names: readonly string[], word: string): boolean {
  const wanted = word.trim().toLowerCase()
  return names.some((name) => name.toLowerCase().includes(wanted))
}

/** The list in a model's folder. Throws `not_found` where there is none and `bad_file` where it is damaged. */
export function readConcepts(model: string): ConceptList {
  const file = path.join(model, fileName)
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code !== 'ENOENT' && code !== 'ENOTDIR')
      throw new AppError('bad_file', `${file} cannot be read: ${code}`, { cause: error })
    throw new AppError('not_found', `${model} has no ${fileName}: models that know few things list them there`)
  }
  let content: unknown
  try {
    content = JSON.parse(text)
  } catch (error) {
    throw new AppError('bad_file', `${file} is no JSON: ${(error as Error).message}`, { cause: error })
  }
  if (!isConceptList(content))
    throw new AppError('bad_file', `${file} must have concepts (name, also), styles, colours and places`)
  return content
}

function isConceptList(value: unknown): value is ConceptList {
  if (typeof value !== 'object' || value === null) return false
  const { concepts: rows, styles, colours, places } = value as Partial<Record<keyof ConceptList, unknown>>
  return Array.isArray(rows) && rows.every(isConcept) && areTexts(styles) && areTexts(colours) && areTexts(places)
}

function isConcept(value: unknown): value is Concept {
  if (typeof value !== 'object' || value === null) return false
  const { also, name } = value as Partial<Record<keyof Concept, unknown>>
  return typeof name === 'string' && areTexts(also)
}

function areTexts(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((entry) => typeof entry === 'string')
}
