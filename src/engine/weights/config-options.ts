// Reading a config.json strictly: an option is either understood, known to change nothing here, or an error.
import { AppError } from '../../errors.ts'

/** The options of one config file. */
export type Options = { readonly file: string; readonly values: Readonly<Record<string, unknown>> }

/** More than any network has of anything that a config counts: a larger number would only fill the memory. */
const maxCount = 1_000_000
/** More layers than any network has in one block, encoder or transformer. */
const maxLayers = 1000

/** A whole number from 1 to a million. */
export function count(options: Options, key: string, fallback?: number): number {
  const value = present(options, key, fallback)
  if (!isCount(value)) throw malformed(options, key, `a whole number from 1 to ${maxCount}`)
  return value
}

/** A number of layers, 1 to 1000. */
export function layerCount(options: Options, key: string, fallback?: number): number {
  const value = present(options, key, fallback)
  if (!isLayerCount(value)) throw malformed(options, key, `a whole number from 1 to ${maxLayers}`)
  return value
}

/** A whole number ≥ 0. */
export function index(options: Options, key: string, fallback?: number): number {
  const value = present(options, key, fallback)
  if (!Number.isSafeInteger(value) || (value as number) < 0)
    throw malformed(options, key, 'a whole number of 0 or more')
  return value as number
}

/** A finite number. */
export function real(options: Options, key: string, fallback?: number): number {
  const value = present(options, key, fallback)
  if (typeof value !== 'number' || !Number.isFinite(value)) throw malformed(options, key, 'a number')
  return value
}

/** A number above 0. */
export function positive(options: Options, key: string, fallback: number): number {
  const value = real(options, key, fallback)
  if (value <= 0) throw malformed(options, key, 'a number above 0')
  return value
}

/** A number above 0 and below 1, such as a variance or what guards a division. */
export function fraction(options: Options, key: string, fallback: number): number {
  const value = real(options, key, fallback)
  if (value <= 0 || value >= 1) throw malformed(options, key, 'a number above 0 and below 1')
  return value
}

/** A boolean. */
export function flag(options: Options, key: string, fallback?: boolean): boolean {
  const value = present(options, key, fallback)
  if (typeof value !== 'boolean') throw malformed(options, key, 'true or false')
  return value
}

/** One of a few words. Another one is `wrong_architecture`: it is right for some other program. */
export function choice<T extends string>(options: Options, key: string, allowed: readonly T[], fallback?: T): T {
  const value = present(options, key, fallback)
  const found = allowed.find((word) => word === value)
  if (found === undefined) throw unsupported(options, key, `supported: ${allowed.join(', ')}`)
  return found
}

/** The widths of a network's levels: 1 to 16 whole numbers from 1 to a million. */
export function widths(options: Options, key: string): readonly number[] {
  const value = present(options, key)
  if (!Array.isArray(value) || value.length === 0 || value.length > 16 || !value.every(isCount))
    throw malformed(options, key, `a list of up to 16 whole numbers from 1 to ${maxCount}`)
  return value
}

/** One value for all of `length` blocks, or a list with a value for each; `fits` says whether a value is right. */
export function perBlock<T>(
  options: Options,
  key: string,
  length: number,
  fits: (value: unknown) => value is T,
  expected: string,
  fallback?: T,
): readonly T[] {
  const value = present(options, key, fallback)
  if (!Array.isArray(value) && fits(value)) return Array.from({ length }, () => value)
  if (!Array.isArray(value) || value.length !== length || !value.every(fits))
    throw malformed(options, key, `${expected}, or a list of ${length} of them`)
  return value
}

/** Whether a value counts something. */
export function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 1 && (value as number) <= maxCount
}

/** Whether a value can be a number of layers. */
export function isLayerCount(value: unknown): value is number {
  return isCount(value) && value <= maxLayers
}

/**
 * Refuse what would change numbers without being implemented: an option of `required` must be absent or have one of
 * the values there, an option that is in none of the tables must be switched off. `read` are those that the caller
 * looks at, `free` those that change nothing here.
 */
export function refuseOthers(
  options: Options,
  tables: {
    readonly read: readonly string[]
    readonly free: readonly string[]
    readonly required: Readonly<Record<string, readonly unknown[]>>
  },
): void {
  for (const [key, value] of Object.entries(options.values)) {
    if (key.startsWith('_') || tables.read.includes(key) || tables.free.includes(key)) continue
    const allowed = Object.hasOwn(tables.required, key) ? tables.required[key] : [null, false]
    if (!allowed.some((item) => JSON.stringify(item) === JSON.stringify(value)))
      throw unsupported(options, key, `supported: ${allowed.map((item) => JSON.stringify(item)).join(', ')}`)
  }
}

/** The error for an option that asks for something that is not implemented. */
export function unsupported(options: Options, key: string, rule: string): AppError {
  const value = JSON.stringify(options.values[key]) ?? 'missing'
  return new AppError(
    'wrong_architecture',
    `file ${options.file}: ${key} ${value.slice(0, 200)} is not supported (${rule})`,
  )
}

function malformed(options: Options, key: string, expected: string): AppError {
  const value = JSON.stringify(options.values[key]) ?? 'missing'
  return new AppError('bad_file', `file ${options.file}: ${key} is ${value.slice(0, 200)}, expected ${expected}`)
}

function present(options: Options, key: string, fallback?: unknown): unknown {
  const value = options.values[key]
  return value === undefined || (value === null && fallback !== undefined) ? fallback : value
}
