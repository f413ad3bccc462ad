// Pictures in a request: base64 in JSON, checked letter by letter and capped before anything is decoded.
import { z } from 'zod'
import { takes } from './lenient.ts'

/** Bytes that one encoded picture may have. */
export const pictureLimitBytes = 32 * 2 ** 20

const dataPrefix = /^data:image\/[\w.+-]{1,40};base64,/i
const alphabet = /^[A-Za-z0-9+/]*={0,2}$/

/** Base64 of a picture, with or without a `data:image/…;base64,` in front → its encoded bytes; what they are is not looked at. */
export function picture() {
  return z
    .string(takes('a picture in base64'))
    .transform((text, context): Uint8Array => {
      const base64 = text.slice(dataPrefix.exec(text)?.[0].length ?? 0)
      const fault = base64Fault(base64)
      if (fault === null) {
        const bytes = Buffer.from(base64, 'base64')
        // A plain view: a Buffer turns itself into a list of numbers wherever it is written as JSON.
        return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      }
      context.issues.push({ code: 'custom', message: fault, input: text })
      return z.NEVER
    })
    .meta({ format: 'byte' })
}

function base64Fault(base64: string): string | null {
  if (base64 === '') return 'must be a picture in base64, got an empty text'
  const decodedBytes = (base64.length / 4) * 3
  if (decodedBytes > pictureLimitBytes + 2)
    return `must be a picture of at most ${pictureLimitBytes / 2 ** 20} MiB, got ${Math.ceil(decodedBytes / 2 ** 20)} MiB`
  if (!alphabet.test(base64)) {
    const at = base64.search(/[^A-Za-z0-9+/]/)
    return `must be a picture in base64 (A-Z a-z 0-9 + / and = at the end), got ${JSON.stringify(base64[at])} at character ${at}`
  }
  if (base64.length % 4 !== 0)
    return `must be a picture in base64, whose length is a multiple of 4 with its padding, got ${base64.length} characters`
  return null
}
