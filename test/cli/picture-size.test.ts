import * as fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { canvasSize, otherSide, resultSize } from '../../src/cli/picture-size.ts'

const length = fc.integer({ min: 1, max: 4096 })
const picture = fc.record({ width: length, height: length })
const side = fc.integer({ min: 0, max: 1500 })
const sides = fc.record({ left: side, top: side, right: side, bottom: side })
const twoMegapixels = 2 * 1024 * 1024

describe('resultSize', () => {
  it.each([
    [
      { width: 1024, height: 1024 },
      { width: 1024, height: 1024 },
    ],
    [
      { width: 1000, height: 750 },
      { width: 1024, height: 768 },
    ],
    [
      { width: 64, height: 20 },
      { width: 64, height: 64 },
    ],
    [
      { width: 4000, height: 3000 },
      { width: 1664, height: 1280 },
    ],
    [
      { width: 1536, height: 640 },
      { width: 1536, height: 640 },
    ],
  ])('%j → %j', (size, expected) => expect(resultSize(size)).toEqual(expected))

  it('is of multiples of 64 near the picture, and hardly above two megapixels', () => {
    fc.assert(
      fc.property(picture, (size) => {
        const result = resultSize(size)
        expect([result.width % 64, result.height % 64]).toEqual([0, 0])
        const scale = Math.min(1, Math.sqrt(twoMegapixels / (size.width * size.height)))
        expect(Math.abs(result.width - size.width * scale)).toBeLessThanOrEqual(64)
        expect(Math.abs(result.height - size.height * scale)).toBeLessThanOrEqual(64)
      }),
    )
  })
})

it.each([
  [512, 1000, 750, 384],
  [1024, 750, 1000, 1344],
  [100, 1000, 10, 64],
])('a side of %i of a picture of %i to %i goes with %i', (given, givenOf, otherOf, expected) => {
  expect(otherSide(given, givenOf, otherOf)).toBe(expected)
})

describe('canvasSize', () => {
  const total = ({
    picture: { width, height },
    sides: { left, top, right, bottom },
  }: ReturnType<typeof canvasSize>) => ({
    width: width + left + right,
    height: height + top + bottom,
  })

  it('leaves what fits', () => {
    const exact = { picture: { width: 1024, height: 1024 }, sides: { left: 256, top: 0, right: 256, bottom: 0 } }
    expect(canvasSize(exact.picture, exact.sides)).toEqual(exact)
  })

  it('lets the new sides take what is missing to a multiple of 64', () => {
    expect(canvasSize({ width: 1000, height: 700 }, { left: 100, top: 50, right: 50, bottom: 0 })).toEqual({
      picture: { width: 1000, height: 700 },
      sides: { left: 101, top: 68, right: 51, bottom: 0 },
    })
  })

  it('scales where an axis has no new side to take it', () => {
    const { picture: size, sides: grown } = canvasSize(
      { width: 1000, height: 1000 },
      { left: 0, top: 200, right: 0, bottom: 0 },
    )
    expect(size).toEqual({ width: 1024, height: 1024 })
    expect(grown).toEqual({ left: 0, top: 192, right: 0, bottom: 0 })
  })

  it('always gives multiples of 64, sides only where they were asked for, and the picture in its shape', () => {
    fc.assert(
      fc.property(picture, sides, (size, asked) => {
        fc.pre(Object.values(asked).some((value) => value > 0))
        const result = canvasSize(size, asked)
        const { width, height } = total(result)
        expect([width % 64, height % 64]).toEqual([0, 0])
        for (const name of ['left', 'top', 'right', 'bottom'] as const) {
          expect(result.sides[name]).toBeGreaterThanOrEqual(0)
          expect(asked[name] === 0 ? result.sides[name] : 0).toBe(0)
        }
        expect(result.sides.left + result.sides.right > 0).toBe(asked.left + asked.right > 0)
        expect(result.sides.top + result.sides.bottom > 0).toBe(asked.top + asked.bottom > 0)
        // Both axes by one scale, but for rounding to whole pixels.
        const scale = { x: result.picture.width / size.width, y: result.picture.height / size.height }
        expect(Math.abs(scale.x - scale.y) * Math.min(size.width, size.height)).toBeLessThanOrEqual(1)
      }),
    )
  })
})
