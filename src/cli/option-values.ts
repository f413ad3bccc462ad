// Text of the command line → checked values. Every refusal names the option, what it got and what it takes.
import { AppError } from '../errors.ts'

/** A whole number from `min` to `max`. Throws `bad_argument`. */
export function wholeNumber(name: string, text: string, min: number, max: number): number {
  const value = /^[+-]?\d+$/.test(text) ? Number(text) : Number.NaN
  if (!(value >= min && value <= max)) throw refusal(name, text, `a whole number from ${min} to ${max}`)
  return value
}

/** A number in (`above`, `max`]. Throws `bad_argument`. */
export function numberAbove(name: string, text: string, above: number, max: number): number {
  const value = decimal(text)
  if (!(value > above && value <= max)) throw refusal(name, text, `a number above ${above} and up to ${max}`)
  return value
}

/** A number in [`min`, `max`]. Throws `bad_argument`. */
export function numberFrom(name: string, text: string, min: number, max: number): number {
  const value = decimal(text)
  if (!(value >= min && value <= max)) throw refusal(name, text, `a number from ${min} to ${max}`)
  return value
}

/** One of `names`, whatever the case of its letters. Throws `bad_argument`. */
export function oneOf<Name extends string>(name: string, text: string, names: readonly Name[]): Name {
  const found = names.find((candidate) => candidate.toLowerCase() === text.toLowerCase())
  if (found === undefined) throw refusal(name, text, `one of ${names.join(', ')}`)
  return found
}

const byteUnits: Readonly<Record<string, number>> = {
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
  mib: 2 ** 20,
  gib: 2 ** 30,
  tib: 2 ** 40,
}

/** An amount of memory such as `40GB` or `1.5TiB`, in bytes. Throws `bad_argument`. */
export function byteSize(name: string, text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgt]i?b)$/i.exec(text)
  const bytes = match ? Number(match[1]) * (byteUnits[match[2].toLowerCase()] ?? Number.NaN) : Number.NaN
  if (!(bytes >= 1e6 && bytes <= 1e15)) throw refusal(name, text, 'a size such as 40GB or 512MiB, from 1MB to 1000TB')
  return Math.round(bytes)
}

function decimal(text: string): number {
  return /^[+-]?(\d+\.?\d*|\.\d+)$/.test(text) ? Number(text) : Number.NaN
}

function refusal(name: string, text: string, allowed: string): AppError {
  return new AppError('bad_argument', `${name} must be ${allowed}, got "${text}"`)
}
