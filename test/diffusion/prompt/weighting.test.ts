import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import { applyTokenWeights } from '#diffusion/prompt/weighting.ts'
import { TorchGenerator } from '#tensor/random.ts'

const shape = [2, 77, 5]
const golden = JSON.parse(readFileSync('test/golden/prompts/weighted.json', 'utf8')) as {
  seed: number
  weights: number[][]
  sha256: string
}[]

test.each(golden)('torch computes the same, bit for bit (seed $seed)', ({ seed, weights, sha256 }) => {
  const hidden = new TorchGenerator(seed).randn(shape)
  const before = hidden.data.slice()
  const result = applyTokenWeights(
    hidden,
    weights.map((chunk) => Float32Array.from(chunk)),
  )
  expect(result.shape).toEqual(shape)
  expect(createHash('sha256').update(new Uint8Array(result.data.buffer)).digest('hex')).toBe(sha256)
  expect(hidden.data).toEqual(before)
})

test('weights of 1 leave the very same numbers', () => {
  const hidden = new TorchGenerator(3).randn(shape)
  const ones = [new Float32Array(77).fill(1), new Float32Array(77).fill(1)]
  expect(applyTokenWeights(hidden, ones)).toEqual(hidden)
})

test('a weight of 0 gives the last position, and a chunk knows only its own', () => {
  const hidden = new TorchGenerator(4).randn(shape)
  fc.assert(
    fc.property(fc.nat(1), fc.nat(75), (chunk, position) => {
      const weights = [new Float32Array(77).fill(1), new Float32Array(77).fill(1)]
      weights[chunk][position] = 0
      const { data } = applyTokenWeights(hidden, weights)
      const at = (row: number) => data.subarray((chunk * 77 + row) * 5, (chunk * 77 + row + 1) * 5)
      expect(at(position)).toEqual(at(76))
      const other = 1 - chunk
      expect(data.subarray(other * 385, (other + 1) * 385)).toEqual(
        hidden.data.subarray(other * 385, (other + 1) * 385),
      )
    }),
  )
})

test.each([
  [1, 77],
  [3, 77],
  [2, 76],
])('%i chunks of %i weights do not fit', (chunks, length) => {
  const weights = Array.from({ length: chunks }, () => new Float32Array(length).fill(1))
  expect(() => applyTokenWeights(new TorchGenerator(5).randn(shape), weights)).toThrow(
    expect.objectContaining({ code: 'internal' }),
  )
})
