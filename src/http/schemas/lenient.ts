// Fields as lenient as the original's: numbers and booleans may come as text, null is the default, and pictures may carry
// a data: prefix. Nothing else is forgiven, and each refusal says what the field takes and what it got.
import { z } from 'zod'

/** Text that writes a number, with nothing but spaces round it; it takes a time that grows with the text's square. */
const numeric = /^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$/i

/** Longer text is neither a number nor a boolean. */
const longestWord = 40

const booleanWords: Readonly<Record<string, boolean>> = {
  ...Object.fromEntries(['true', '1', 'yes', 'on', 't', 'y'].map((word) => [word, true])),
  ...Object.fromEntries(['false', '0', 'no', 'off', 'f', 'n'].map((word) => [word, false])),
}

/** A value in a message: short, on one line, and without what could be long or private. */
export function shown(value: unknown): string {
  if (value === undefined) return 'nothing'
  if (value === null || typeof value === 'number' || typeof value === 'boolean') return String(value)
  if (typeof value === 'string')
    return value.length <= 40 ? JSON.stringify(value) : `a text of ${value.length} characters`
  return Array.isArray(value) ? 'a list' : 'an object'
}

/** Error option of a schema: what the field takes, and what it got. */
export const takes = (what: string) => ({
  error: ({ input }: { readonly input?: unknown }) =>
    input === undefined ? 'is missing' : `must be ${what}, got ${shown(input)}`,
})

/** A whole number from `min` to `max`, also as text. */
export function wholeNumber(min: number, max: number) {
  const error = takes(`a whole number from ${min} to ${max}`)
  return z.preprocess(numberFromText, z.int(error).min(min, error).max(max, error))
}

/** A number from `min` to `max`, also as text; `above` leaves `min` itself out. */
export function decimal({ min, max, above = false }: { min: number; max: number; above?: boolean }) {
  const range =
    max === Infinity
      ? `a number ${above ? 'above' : 'of at least'} ${min}`
      : `a number ${above ? `above ${min} and up to` : `from ${min} to`} ${max}`
  const error = takes(range)
  const number = z.number(error)
  const bounded = above ? number.gt(min, error) : number.gte(min, error)
  return z.preprocess(numberFromText, max === Infinity ? bounded : bounded.lte(max, error))
}

/** Any number, also as text. */
export function anyNumber() {
  return z.preprocess(numberFromText, z.number(takes('a number')))
}

/** A boolean, also as one of the words that stand for it. */
export function flag() {
  return z.preprocess(booleanFromText, z.boolean(takes('true or false')))
}

/** One of `names`. */
export function oneOf<const Name extends string>(names: readonly Name[]) {
  return z.enum(names, takes(`one of ${names.join(', ')}`))
}

/** Text of up to `limit` characters (code points) that is Unicode without NUL. */
export function unicode(limit: number) {
  return z
    .string(takes('text'))
    .refine((text) => text.length <= limit || Array.from(text).length <= limit, {
      error: ({ input }) => `must have at most ${limit} characters, got ${Array.from(String(input)).length}`,
    })
    .refine((text) => text.isWellFormed() && !text.includes('\0'), {
      error: 'must be Unicode text without NUL characters',
    })
    .meta({ maxLength: limit })
}

/** `schema`, where absence and null mean `value`. */
export function withDefault<Schema extends z.ZodType>(schema: Schema, value: z.output<Schema>) {
  return schema
    .nullish()
    .transform((given) => given ?? value)
    .meta({ default: value })
}

/** `schema`, where absence and null mean that there is none. */
export function optional<Schema extends z.ZodType>(schema: Schema) {
  return schema.nullish().transform((given) => given ?? null)
}

function numberFromText(value: unknown): unknown {
  return typeof value === 'string' && value.length <= longestWord && numeric.test(value) ? Number(value) : value
}

function booleanFromText(value: unknown): unknown {
  if (value === 1) return true
  if (value === 0) return false
  if (typeof value !== 'string' || value.length > longestWord) return value
  return booleanWords[value.trim().toLowerCase()] ?? value
}
