import * as fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { parsePrompt } from '#diffusion/prompt/parse-prompt.ts'
import { ClipTokenizer } from '#diffusion/prompt/tokenizer.ts'
import { applyStyle, stylePresetNames, stylePresets, type StylePresetName } from '#diffusion/style-presets.ts'
import { standardTokenizer } from '#engine/weights/tokenizer-files.ts'

const tokenizer = new ClipTokenizer(await standardTokenizer(49407))
const named = (except: StylePresetName[] = []) => stylePresetNames.filter((name) => !except.includes(name))
const wordsOf = (text: string): Set<string> => new Set(text.toLowerCase().match(/[\p{L}\d]+/gu))

/** Shared words of two texts, as a part of all of theirs. */
function likeness(a: string, b: string): number {
  const [first, second] = [wordsOf(a), wordsOf(b)]
  return first.intersection(second).size / first.union(second).size
}

describe('the table', () => {
  it('has 78 names, and base changes nothing', () => {
    expect(stylePresetNames).toHaveLength(78)
    expect(stylePresets.base).toEqual({ template: '{prompt}', negative: '' })
  })

  it.each(named())('%s: room for one prompt, no syntax, at most 40 tokens each', (name) => {
    const { template, negative } = stylePresets[name]
    expect(template.split('{prompt}')).toHaveLength(2)
    expect(template.replace('{prompt}', '') + negative).not.toMatch(/[()[\]{}\\:]/)
    expect(tokenizer.encode(template.replace('{prompt}', '')).length).toBeLessThanOrEqual(40)
    expect(tokenizer.encode(negative).length).toBeLessThanOrEqual(40)
  })

  it.each(named(['base']))('%s says enough, and what it shows is not what it avoids', (name) => {
    const { template, negative } = stylePresets[name]
    expect(tokenizer.encode(template.replace('{prompt}', '')).length).toBeGreaterThanOrEqual(8)
    expect(negative).not.toBe('')
    const terms = (text: string) => text.toLowerCase().split(', ')
    expect(terms(negative).filter((term) => terms(template).includes(term))).toEqual([])
  })

  it('has no two that are alike', () => {
    const names = named(['base'])
    const pairs = names.flatMap((a, index) => names.slice(index + 1).map((b) => [a, b] as const))
    const alike = pairs.filter(
      ([a, b]) =>
        likeness(stylePresets[a].template, stylePresets[b].template) > 0.3 ||
        stylePresets[a].negative === stylePresets[b].negative,
    )
    expect(alike).toEqual([])
  })
})

describe('applyStyle', () => {
  const texts = { prompt: 'a (red:1.3) fox', prompt2: null, negativePrompt: null, negativePrompt2: null }
  const { negative } = stylePresets.origami

  it('puts the prompt into the template, and the words before the negative prompt', () => {
    const styled = applyStyle('origami', { ...texts, negativePrompt: 'snow' })
    expect(styled.prompt).toBe(stylePresets.origami.template.replace('{prompt}', 'a (red:1.3) fox'))
    expect(styled.negativePrompt).toBe(`${negative}, snow`)
  })

  it('makes a negative prompt where there is none, or an empty one', () => {
    expect(applyStyle('origami', texts).negativePrompt).toBe(negative)
    expect(applyStyle('origami', { ...texts, negativePrompt: '' }).negativePrompt).toBe(negative)
  })

  it('is followed by what is copied and not by what is given', () => {
    expect(applyStyle('origami', texts)).toMatchObject({ prompt2: null, negativePrompt2: null })
    const own = { ...texts, prompt2: 'a fox', negativePrompt2: '' }
    expect(applyStyle('origami', own)).toMatchObject({ prompt2: 'a fox', negativePrompt2: '' })
  })

  it('leaves everything with base', () => {
    const all = { prompt: 'a', prompt2: 'b', negativePrompt: null, negativePrompt2: 'd' }
    expect(applyStyle('base', all)).toEqual(all)
    expect(applyStyle('base', { ...all, negativePrompt: '' }).negativePrompt).toBe('')
  })

  it('keeps every prompt with its weights, whatever is in it', () => {
    const prompt = fc.array(fc.constantFrom('(', ')', ':1.4)', '\\', '[', 'cat', ' ', '{prompt}', '$&', '$1', '🦊'))
    fc.assert(
      fc.property(prompt, fc.constantFrom(...stylePresetNames), (parts, name) => {
        const text = parts.join('')
        const styled = applyStyle(name, { ...texts, prompt: text }).prompt
        expect(styled).toContain(text)
        const [before, after] = stylePresets[name].template.split('{prompt}')
        const letters = (whole: string) =>
          parsePrompt(whole).flatMap(({ text, weight }) => Array.from(text, (letter) => [letter, weight]))
        expect(letters(styled)).toEqual([...letters(before), ...letters(text), ...letters(after)])
      }),
    )
  })
})
