// The JSON of a safetensors header. JSON.parse keeps the last of two equal keys and says nothing, so that two readers
// may see two different files; here equal keys are refused.

/** The header, its tensors, and their shapes; whatever else a writer may put there is not much deeper. */
const maxDepth = 16

/**
 * The header's object. `bad` makes the error out of a short description.
 * Throws for bytes that are not UTF-8, text that is not one JSON object or too deep, and equal keys in any object.
 */
export function readHeaderJson(bytes: Uint8Array, bad: (problem: string) => Error): Record<string, unknown> {
  if (bytes[0] !== 0x7b) throw bad('is not safetensors: its header does not start with "{"')
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch (error) {
    if (!(error instanceof TypeError)) throw error
    throw bad('has a header that is not UTF-8')
  }
  // Before parsing, which would make an object of each level.
  if (isDeep(text)) throw bad(`has a header with more than ${maxDepth} levels`)
  let header: unknown
  try {
    header = JSON.parse(text)
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error
    throw bad('has a header that is not JSON')
  }
  const twice = repeatedKey(text)
  if (twice !== null) throw bad(`has the key ${twice.slice(0, 120)} twice in its header`)
  // The text starts with "{" and is valid JSON, so that the value is an object.
  return header as Record<string, unknown>
}

/** Whether brackets outside of strings are open more than `maxDepth` levels deep; the text may be no JSON. */
function isDeep(text: string): boolean {
  let depth = 0
  for (let at = 0; at < text.length; at++) {
    const char = text[at]
    if (char === '{' || char === '[') {
      if (++depth > maxDepth) return true
    } else if (char === '}' || char === ']') depth--
    else if (char === '"') for (at++; at < text.length && text[at] !== '"'; at++) if (text[at] === '\\') at++
  }
  return false
}

/** The first key, in quotes, that an object of this valid JSON text has twice; null when there is none. */
function repeatedKey(text: string): string | null {
  // One set of keys an open object, null an open array.
  const open: (Set<string> | null)[] = []
  let key = false
  for (let at = 0; at < text.length; at++) {
    const char = text[at]
    if (char === '{') {
      open.push(new Set())
      key = true
    } else if (char === '[') {
      open.push(null)
      key = false
    } else if (char === '}' || char === ']') {
      open.pop()
      key = false
    } else if (char === ',') key = open.at(-1) !== null
    else if (char === '"') {
      const start = at
      for (at++; text[at] !== '"'; at++) if (text[at] === '\\') at++
      if (!key) continue
      // Unescaped before comparing: "a" and "\u0061" are one key.
      const name = JSON.parse(text.slice(start, at + 1)) as string
      const keys = open.at(-1)!
      if (keys.has(name)) return JSON.stringify(name)
      keys.add(name)
      key = false
    }
  }
  return null
}
