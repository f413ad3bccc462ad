import * as fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { pasteInpainted, seamCells } from '#image/paste.ts'

const cell = 8
const width = 48
const height = 40
const original = { width, height, data: Uint8Array.from({ length: 3 * width * height }, (_, i) => (i * 29) & 255) }
const painted = { width, height, data: Uint8Array.from({ length: 3 * width * height }, (_, i) => (i * 53 + 7) & 255) }
const box = fc
  .tuple(fc.nat(width - 1), fc.nat(height - 1), fc.nat(width - 1), fc.nat(height - 1))
  .map(([a, b, c, d]) => ({ left: Math.min(a, c), top: Math.min(b, d), right: Math.max(a, c), bottom: Math.max(b, d) }))
const maskOf = ({ left, top, right, bottom }: { left: number; top: number; right: number; bottom: number }) => {
  const data = new Uint8Array(width * height)
  for (let y = top; y <= bottom; y++) data.fill(255, y * width + left, y * width + right + 1)
  return { width, height, data }
}

describe('pasteInpainted', () => {
  it('is the painting deep in the mask, the original to the bit beyond the seam, and between the two in it', () => {
    fc.assert(
      fc.property(box, (hole) => {
        const { data } = pasteInpainted({ original, painted, mask: maskOf(hole), cell })
        for (let y = 0; y < height; y++) {
          for (let x = 0; x < width; x++) {
            const dx = Math.max(hole.left - x, x - hole.right, 0)
            const dy = Math.max(hole.top - y, y - hole.bottom, 0)
            // To the hole's edge, but where that is the picture's own.
            const depth = Math.min(
              hole.left === 0 ? Infinity : x - hole.left,
              hole.top === 0 ? Infinity : y - hole.top,
              hole.right === width - 1 ? Infinity : hole.right - x,
              hole.bottom === height - 1 ? Infinity : hole.bottom - y,
            )
            for (let i = 3 * (y * width + x), end = i + 3; i < end; i++) {
              const [before, after] = [original.data[i], painted.data[i]]
              // What it may be, from..to: exactly one of the two, or anything between them in the seam.
              let range = [Math.min(before, after), Math.max(before, after)]
              if (depth >= seamCells.inside * cell) range = [after, after]
              if (Math.hypot(dx, dy) >= seamCells.outside * cell) range = [before, before]
              expect(data[i]).toBeGreaterThanOrEqual(range[0])
              expect(data[i]).toBeLessThanOrEqual(range[1])
            }
          }
        }
      }),
      { numRuns: 30 },
    )
  })

  it('fades evenly, without a step of more than a quarter', () => {
    const black = { width, height, data: new Uint8Array(original.data.length) }
    const white = { width, height, data: new Uint8Array(original.data.length).fill(255) }
    const mask = maskOf({ left: 0, top: 0, right: 19, bottom: 39 })
    const { data } = pasteInpainted({ original: black, painted: white, mask, cell })
    const row = Array.from({ length: width }, (_, x) => data[3 * (20 * width + x)])
    expect(row.slice(0, 16)).toEqual(Array(16).fill(255))
    expect(row[17]).toBeLessThan(255)
    expect(row[19 + cell - 2]).toBeGreaterThan(0)
    expect(row.slice(19 + cell)).toEqual(Array(width - 19 - cell).fill(0))
    const steps = row.slice(1).map((value, x) => row[x] - value)
    expect(Math.min(...steps)).toBe(0)
    expect(Math.max(...steps)).toBeLessThanOrEqual(64)
  })

  it('takes as much of the painting as a grey mask says', () => {
    const black = { width, height, data: new Uint8Array(original.data.length) }
    const white = { width, height, data: new Uint8Array(original.data.length).fill(255) }
    const half = { width, height, data: new Uint8Array(width * height).fill(128) }
    const { data } = pasteInpainted({ original: black, painted: white, mask: half, cell })
    expect(new Set(data)).toEqual(new Set([128]))
  })

  it('with a region changes nothing outside, and meets the region softly where the mask runs over its edge', () => {
    const region = { left: 10, top: 0, right: 34, bottom: 24 }
    const painting = { width: 96, height: 96, data: new Uint8Array(3 * 96 * 96).fill(255) }
    const black = { width, height, data: new Uint8Array(original.data.length) }
    const mask = maskOf({ left: 0, top: 0, right: width - 1, bottom: height - 1 })
    const { data } = pasteInpainted({ original: black, painted: painting, mask, region, cell: 16 })
    const at = (x: number, y: number) => data[3 * (y * width + x)]
    const outside = data.filter((_, i) => {
      const [x, y] = [Math.floor(i / 3) % width, Math.floor(i / 3 / width)]
      return x < 10 || x >= 34 || y >= 24
    })
    expect(new Set(outside)).toEqual(new Set([0]))
    // The top edge is the picture's own, so there is nothing to meet.
    expect(at(22, 0)).toBe(255)
    expect(at(10, 8)).toBeLessThan(48)
    expect(at(22, 23)).toBeLessThan(48)
    expect(at(22, 12)).toBe(255)
  })

  it('leaves its inputs', () => {
    const before = [original.data.slice(), painted.data.slice()]
    pasteInpainted({ original, painted, mask: maskOf({ left: 3, top: 3, right: 30, bottom: 30 }), cell })
    expect([original.data, painted.data]).toEqual(before)
  })
})
