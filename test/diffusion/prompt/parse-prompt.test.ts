import { readFileSync } from 'node:fs'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { parsePrompt } from '#diffusion/prompt/parse-prompt.ts'

const golden = JSON.parse(readFileSync('test/golden/prompts/syntax.json', 'utf8')) as {
  text: string
  segments: [text: string, weight: number][]
}[]

test.each(golden)('as the reference parses it: $text', ({ text, segments }) => {
  expect(parsePrompt(text)).toEqual(segments.map(([text, weight]) => ({ text, weight })))
})

describe('the contract by example', () => {
  test.each([
    ['(x)', [{ text: 'x', weight: 1.1 }]],
    ['(x:1.5)', [{ text: 'x', weight: 1.5 }]],
    ['(x: 0.8)', [{ text: 'x', weight: 0.8 }]],
    ['(x:abc)', [{ text: 'x:abc', weight: 1.1 }]],
    ['\\(x\\)', [{ text: '(x)', weight: 1 }]],
    ['a (b', [{ text: 'a (b', weight: 1 }]],
    ['[x]', [{ text: '[x]', weight: 1 }]],
    ['()', []],
    ['', []],
  ])('%s', (text, segments) => {
    expect(parsePrompt(text)).toEqual(segments)
  })

  test('three brackets weigh 1.33', () => {
    expect(parsePrompt('(((x)))')[0].weight).toBeCloseTo(1.331, 12)
  })
})

describe('any text', () => {
  // Halves of surrogate pairs too.
  const anything = fc.array(fc.nat(0xffff)).map((units) => String.fromCharCode(...units))
  const bracketed = fc.string({ unit: fc.constantFrom('(', ')', '\\', ':', '1', '.', ' ', 'a', 'é', '😀') })

  test('never throws, and leaves out nothing but syntax', () => {
    fc.assert(
      fc.property(fc.oneof(anything, bracketed), (text) => {
        const segments = parsePrompt(text)
        for (const segment of segments) expect(segment.text).not.toBe('')
        const letters = (value: string) => value.replaceAll(/[^\p{L}\p{Emoji_Presentation}]/gu, '')
        expect(letters(segments.map((segment) => segment.text).join(''))).toBe(letters(text))
      }),
    )
  })

  test('without brackets stays one segment', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme', minLength: 1 }), (text) => {
        fc.pre(!/[()]/.test(text))
        expect(parsePrompt(text)).toEqual([{ text, weight: 1 }])
      }),
    )
  })

  test('only brackets and letters: each letter weighs 1.1 to the power of its depth', () => {
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom('(', ')', 'a', 'b'), maxLength: 60 }), (text) => {
        const expected: number[] = []
        for (const [i, letter] of text.split('').entries()) {
          if (letter === '(' || letter === ')') continue
          expected.push(enclosing(text, i))
        }
        const actual = parsePrompt(text).flatMap((segment) =>
          Array.from(segment.text.replaceAll(/[()]/g, ''), () => segment.weight),
        )
        expect(actual).toHaveLength(expected.length)
        for (const [i, weight] of actual.entries()) {
          expect(weight).toBeGreaterThan(0)
          expect(weight).toBeCloseTo(1.1 ** expected[i], 8)
        }
      }),
    )
  })

  test('half a million brackets are neither slow nor too deep', () => {
    const depth = 250_000
    const started = performance.now()
    expect(parsePrompt('('.repeat(depth) + 'x' + ')'.repeat(depth))).toHaveLength(1)
    expect(parsePrompt('('.repeat(depth) + 'x')).toEqual([{ text: '('.repeat(depth) + 'x', weight: 1 }])
    expect(parsePrompt('(1 '.repeat(depth) + ':1)')).toHaveLength(2)
    expect(performance.now() - started).toBeLessThan(5000)
  })
})

/** How many brackets with partners enclose position `at`, counted naively. */
function enclosing(text: string, at: number): number {
  let depth = 0
  for (let start = 0; start < at; start++) {
    if (text[start] !== '(') continue
    let open = 0
    for (let end = start; end < text.length; end++) {
      if (text[end] === '(') open++
      if (text[end] === ')') open--
      if (open === 0) {
        if (end > at) depth++
        break
      }
    }
  }
  return depth
}
