import { describe, expect, it } from 'vitest'
import { byteSize, numberAbove, numberFrom, oneOf, wholeNumber } from '../../src/cli/option-values.ts'

describe('wholeNumber', () => {
  it.each([
    ['1', 1],
    ['200', 200],
    ['007', 7],
    ['+5', 5],
  ])('takes %s', (text, value) => expect(wholeNumber('--steps', text, 1, 200)).toBe(value))
  it.each(['', ' ', '0', '201', '-1', '1.5', '1e2', '0x10', 'ten', '12a', 'NaN', 'Infinity', '９'])(
    'refuses "%s"',
    (text) =>
      expect(() => wholeNumber('--steps', text, 1, 200)).toThrow(
        `--steps must be a whole number from 1 to 200, got "${text}"`,
      ),
  )
})

describe('numberAbove', () => {
  it.each([
    ['7', 7],
    ['7.5', 7.5],
    ['.5', 0.5],
    ['50', 50],
    ['5.', 5],
  ])('takes %s', (text, value) => expect(numberAbove('--cfg', text, 0, 50)).toBe(value))
  it.each(['', '0', '-3', '50.01', '1e1', 'NaN', 'Infinity', '.', '1,5'])('refuses "%s"', (text) =>
    expect(() => numberAbove('--cfg', text, 0, 50)).toThrow(
      `--cfg must be a number above 0 and up to 50, got "${text}"`,
    ),
  )
})

describe('numberFrom', () => {
  it.each([
    ['0', 0],
    ['0.8', 0.8],
    ['1', 1],
  ])('takes %s', (text, value) => expect(numberFrom('--high-noise-frac', text, 0, 1)).toBe(value))
  it.each(['', '-0.1', '1.01', '1e-1', 'NaN', 'half'])('refuses "%s"', (text) =>
    expect(() => numberFrom('--high-noise-frac', text, 0, 1)).toThrow(
      `--high-noise-frac must be a number from 0 to 1, got "${text}"`,
    ),
  )
})

describe('oneOf', () => {
  it('takes any case', () => expect(oneOf('--sampler', 'k_Euler', ['DDIM', 'K_EULER'])).toBe('K_EULER'))
  it('lists what there is', () =>
    expect(() => oneOf('--sampler', 'Euler a', ['DDIM', 'K_EULER'])).toThrow(
      '--sampler must be one of DDIM, K_EULER, got "Euler a"',
    ))
})

describe('byteSize', () => {
  it.each([
    ['40GB', 40e9],
    ['1.5tb', 1.5e12],
    ['2 GiB', 2 ** 31],
    ['512MiB', 2 ** 29],
    ['1000TB', 1e15],
  ])('takes %s', (text, bytes) => expect(byteSize('--cache-limit', text)).toBe(bytes))
  it.each(['', '40', '40G', '-1GB', '900KB', '1001TB', 'GB', '1e3GB'])('refuses "%s"', (text) =>
    expect(() => byteSize('--cache-limit', text)).toThrow(/--cache-limit must be a size such as 40GB .*, got ".*"$/),
  )
})
