// The prompt's weight syntax. A character is read at most twice and brackets are kept on a stack of our own, so that no
// prompt is slow or too deep.

/** A stretch of a prompt with one weight. */
export type PromptSegment = { readonly text: string; readonly weight: number }

const bracketWeight = 1.1

type Bracket = {
  readonly weight: number
  /** Where the text inside ends: before `:1.5` if there is one, else at the closing bracket. */
  readonly textEnd: number
  readonly close: number
}

/**
 * `(x)` weighs 1.1, `(x:1.5)` 1.5, nested brackets multiply; `\(` and `\)` are letters, and so are brackets without a
 * partner and `[…]`. Segments keep the prompt's order; a bracket's edge always begins a new one. "" gives none.
 */
export function parsePrompt(text: string): readonly PromptSegment[] {
  const brackets = matchBrackets(text)
  const segments: PromptSegment[] = []
  const open: Bracket[] = []
  let weight = 1
  const weights: number[] = []
  let literal = ''
  const endSegment = (): void => {
    if (literal !== '') segments.push({ text: literal, weight })
    literal = ''
  }
  for (let i = 0; i < text.length; i++) {
    const opened = brackets.get(i)
    const innermost = open.at(-1)
    if (opened) {
      endSegment()
      open.push(opened)
      weights.push(weight)
      weight *= opened.weight
    } else if (innermost && i === innermost.textEnd) {
      endSegment()
      i = innermost.close
      open.pop()
      weight = weights.pop() ?? 1
    } else {
      if (isEscape(text, i)) i++
      literal += text[i]
    }
  }
  endSegment()
  return segments
}

/** Opening position → bracket, for every bracket that has a partner. */
function matchBrackets(text: string): Map<number, Bracket> {
  const brackets = new Map<number, Bracket>()
  const open: number[] = []
  // Where the innermost bracket's own last stretch of text began: a weight cannot reach back over another bracket.
  let stretch = 0
  for (let i = 0; i < text.length; i++) {
    if (isEscape(text, i)) {
      i++
      stretch = i + 1
    } else if (text[i] === '(') {
      open.push(i)
      stretch = i + 1
    } else if (text[i] === ')') {
      const start = open.pop()
      if (start !== undefined) {
        const explicit = explicitWeight(text, stretch, i)
        brackets.set(start, { weight: bracketWeight, textEnd: i, close: i, ...explicit })
      }
      stretch = i + 1
    }
  }
  return brackets
}

function isEscape(text: string, index: number): boolean {
  return text[index] === '\\' && (text[index + 1] === '(' || text[index + 1] === ')')
}

/** The `:1.5` before the closing bracket at `close`, looked for from there backwards as far as `from`. */
function explicitWeight(text: string, from: number, close: number): Pick<Bracket, 'weight' | 'textEnd'> | null {
  let colon = close - 1
  while (colon >= from && /[\d.+\-\s]/.test(text[colon])) colon--
  if (colon < from || text[colon] !== ':') return null
  const number = text.slice(colon + 1, close).trim()
  if (!/^[+-]?(\d+\.?\d*|\.\d+)$/.test(number)) return null
  const weight = Number(number)
  return Number.isFinite(weight) ? { weight, textEnd: colon } : null
}
