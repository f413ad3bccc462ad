import { describe, expect, it } from 'vitest'
import { matchEdgeTone } from '#image/edge-tone.ts'

const size = 160
const cell = 8
/** A hole of whole latents in the middle. */
const isHole = (i: number): boolean => {
  const [x, y] = [i % size, Math.floor(i / size)]
  return x >= 48 && x < 112 && y >= 48 && y < 112
}
const mask = {
  width: size,
  height: size,
  data: Uint8Array.from({ length: size * size }, (_, i) => (isHole(i) ? 255 : 0)),
}
const picture = (value: (i: number, channel: number) => number) => ({
  width: size,
  height: size,
  data: Uint8Array.from({ length: 3 * size * size }, (_, i) => value(Math.floor(i / 3), i % 3)),
})
const original = picture(() => 100)
const row = ({ data }: { data: Uint8Array }) => Array.from({ length: size }, (_, x) => data[3 * (80 * size + x)])
const steps = (values: number[]) => values.slice(1).map((value, x) => Math.abs(value - values[x]))

describe('matchEdgeTone', () => {
  it('takes a shade away at the edge, and leaves it deep inside', () => {
    // As a decoder paints it: the passage takes about a latent.
    const share = (at: number) => Math.min(1, Math.max(0, Math.min(at - 44, 116 - at) / cell))
    const shaded = picture((i) => 100 + 16 * Math.min(share(i % size), share(Math.floor(i / size))))
    const after = row(matchEdgeTone(shaded, original, mask, cell))
    expect(row(shaded)[52]).toBe(116)
    expect(Math.max(...steps(after))).toBeLessThanOrEqual(2)
    expect(after[52]).toBeLessThanOrEqual(105)
    expect(after[80]).toBeGreaterThan(106)
    expect(after.slice(0, 40)).toEqual(Array(40).fill(100))
  })

  it('leaves a real difference, in any channel', () => {
    const other = picture((i, channel) => (isHole(i) ? [104, 104, 170][channel] : 100))
    expect(matchEdgeTone(other, original, mask, cell)).toEqual(other)
  })

  it('leaves detail, and a picture that is painted all over', () => {
    const striped = picture((i) => (isHole(i) && i % 2 === 0 ? 90 : isHole(i) ? 110 : 100))
    const toned = matchEdgeTone(striped, original, mask, cell)
    expect(Math.max(...toned.data.map((value, i) => Math.abs(value - striped.data[i])))).toBeLessThanOrEqual(1)
    const white = { ...mask, data: new Uint8Array(size * size).fill(255) }
    const painted = picture(() => 130)
    expect(matchEdgeTone(painted, original, white, cell)).toEqual(painted)
  })

  it('leaves its inputs', () => {
    const painted = picture((i) => (isHole(i) ? 112 : 100))
    const before = painted.data.slice()
    matchEdgeTone(painted, original, mask, cell)
    expect(Buffer.compare(painted.data, before)).toBe(0)
  })
})
