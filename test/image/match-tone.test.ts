import { describe, expect, it } from 'vitest'
import { matchTone } from '#image/match-tone.ts'
import { expandCanvas, prepareOutpaint } from '#image/outpaint.ts'
import { fillUnknown } from '#image/pyramid.ts'

const picture = { width: 256, height: 256, data: new Uint8Array(3 * 256 * 256).fill(100) }
const canvas = expandCanvas(picture, { left: 192, top: 0, right: 0, bottom: 0 })
const { image, mask } = prepareOutpaint(canvas.image, canvas.mask, () => 0.5, 8)
const { width, height } = image
const flat = (value: number) => ({ width, height, data: new Uint8Array(3 * width * height).fill(value) })
const row = (data: Uint8Array) => Array.from({ length: width }, (_, x) => data[3 * (128 * width + x)])

describe('matchTone', () => {
  it('takes a tint away at the picture, and less of it further out, without a step', () => {
    const values = row(matchTone(flat(120), image, mask).data)
    expect(values[200]).toBe(100)
    expect(values[0]).toBeGreaterThan(104)
    expect(values[0]).toBeLessThan(112)
    const steps = values.slice(1).map((value, x) => values[x] - value)
    expect(Math.max(...steps)).toBeLessThanOrEqual(1)
  })

  it('takes no more than a tint', () => {
    expect(row(matchTone(flat(200), image, mask).data)[200]).toBe(200 - 48)
    expect(row(matchTone(flat(10), image, mask).data)[200]).toBe(10 + 48)
  })

  it('leaves what has no tint', () => {
    expect(matchTone(flat(100), image, mask)).toEqual(flat(100))
  })

  it('leaves detail: what is as often lighter as darker', () => {
    const striped = flat(0)
    for (let i = 0; i < striped.data.length; i++) striped.data[i] = Math.floor(i / 3) % 2 === 0 ? 80 : 120
    expect(matchTone(striped, image, mask)).toEqual(striped)
  })
})

describe('fillUnknown', () => {
  it('keeps what is known and stays between it elsewhere', () => {
    const known = new Map([
      [3, 10],
      [40, 30],
      [77, 20],
    ])
    const values = Float32Array.from({ length: 9 * 11 }, (_, i) => known.get(i) ?? 1e6)
    const weights = Float32Array.from(values, (_, i) => (known.has(i) ? 1 : 0))
    fillUnknown({ width: 9, height: 11, values, weights }, 0)
    for (const [at, value] of known) expect(values[at]).toBe(value)
    expect(Math.min(...values)).toBeGreaterThanOrEqual(10)
    expect(Math.max(...values)).toBeLessThanOrEqual(30)
  })

  it('takes the given value where nothing is known', () => {
    const plane = { width: 2, height: 1, values: Float32Array.of(5, 6), weights: new Float32Array(2) }
    fillUnknown(plane, 7)
    expect([...plane.values]).toEqual([7, 7])
  })
})
