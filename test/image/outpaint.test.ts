import * as fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Pixels } from '#image/codec.ts'
import { expandCanvas, prepareOutpaint } from '#image/outpaint.ts'

/** A picture whose colour changes slowly, so that its continuation can be told. */
function gradient(width: number, height: number): Pixels {
  const data = Uint8Array.from({ length: 3 * width * height }, (_, i) => {
    const [x, y] = [Math.floor(i / 3) % width, Math.floor(i / 3 / width)]
    return [40 + (100 * x) / width, 200 - (100 * y) / height, 90][i % 3]
  })
  return { width, height, data }
}

/** Uniform numbers that repeat from run to run. */
function sequence(seed: number): () => number {
  let state = seed
  return () => (state = (state * 16807) % 2147483647) / 2147483647
}

const side = fc.integer({ min: 0, max: 20 })
const sides = fc.record({ left: side, top: side, right: side, bottom: side })

describe('expandCanvas', () => {
  it('puts the picture where the sides leave it, and masks the rest', () => {
    fc.assert(
      fc.property(sides, ({ left, top, right, bottom }) => {
        const picture = gradient(9, 7)
        const { image, mask } = expandCanvas(picture, { left, top, right, bottom })
        expect([image.width, image.height]).toEqual([9 + left + right, 7 + top + bottom])
        expect([mask.width, mask.height]).toEqual([image.width, image.height])
        for (let y = 0; y < image.height; y++) {
          for (let x = 0; x < image.width; x++) {
            const at = y * image.width + x
            const inside = x >= left && x < left + 9 && y >= top && y < top + 7
            expect(mask.data[at]).toBe(inside ? 0 : 255)
            const from = 3 * ((y - top) * 9 + x - left)
            const expected = inside ? picture.data.subarray(from, from + 3) : [128, 128, 128]
            expect([...image.data.subarray(3 * at, 3 * at + 3)]).toEqual([...expected])
          }
        }
      }),
    )
  })
})

describe('prepareOutpaint', () => {
  const canvas = expandCanvas(gradient(192, 192), { left: 64, top: 0, right: 0, bottom: 64 })
  const prepared = prepareOutpaint(canvas.image, canvas.mask, sequence(1), 1)
  const { width } = canvas.image

  it('keeps the picture to the bit', () => {
    const known = (data: Uint8Array) => data.filter((_, i) => canvas.mask.data[Math.floor(i / 3)] === 0)
    expect(Buffer.compare(known(prepared.image.data), known(canvas.image.data))).toBe(0)
    expect(known(prepared.image.data).length).toBe(3 * 192 * 192)
  })

  it('goes on with the colours of the edge', () => {
    for (let y = 0; y < 192; y += 12) {
      const edge = 3 * (y * width + 64)
      for (let channel = 0; channel < 3; channel++)
        expect(Math.abs(prepared.image.data[edge - 3 + channel] - prepared.image.data[edge + channel])).toBeLessThan(12)
    }
  })

  it('has more noise far from the picture than near it', () => {
    const roughness = (x: number) => {
      let sum = 0
      for (let y = 0; y < 190; y++)
        sum += Math.abs(prepared.image.data[3 * (y * width + x)] - prepared.image.data[3 * ((y + 1) * width + x)])
      return sum
    }
    expect(roughness(2)).toBeGreaterThan(3 * roughness(62))
  })

  it('masks all that is new, and falls off inside the picture without a step', () => {
    const row = Array.from({ length: width }, (_, x) => prepared.mask.data[50 * width + x])
    expect(row.slice(0, 64)).toEqual(Array(64).fill(255))
    expect(row[width - 1]).toBe(0)
    const steps = row.slice(1).map((value, x) => row[x] - value)
    expect(Math.min(...steps)).toBe(0)
    expect(Math.max(...steps)).toBeLessThanOrEqual(Math.ceil(255 / 8))
    // Half of the overlap is painted over.
    expect(row[64 + 3]).toBeGreaterThanOrEqual(128)
    expect(row[64 + 8]).toBe(0)
  })

  it('draws everything from the numbers it is given', () => {
    const again = prepareOutpaint(canvas.image, canvas.mask, sequence(1), 2)
    expect(Buffer.compare(again.image.data, prepared.image.data)).toBe(0)
    const other = prepareOutpaint(canvas.image, canvas.mask, sequence(2), 2)
    expect(Buffer.compare(other.image.data, prepared.image.data)).not.toBe(0)
  })

  it('takes any mask', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 20 * 14, maxLength: 20 * 14 }), (data) => {
        fc.pre(data.some((value) => value >= 128))
        const { image, mask } = prepareOutpaint(gradient(20, 14), { width: 20, height: 14, data }, sequence(3), 2)
        expect(image.data.length).toBe(3 * 20 * 14)
        expect(mask.data.every((value, i) => data[i] < 128 || value === 255)).toBe(true)
      }),
    )
  })

  it('paints all of a picture where the mask is all white', () => {
    const mask = { width: 20, height: 14, data: new Uint8Array(20 * 14).fill(255) }
    const { image } = prepareOutpaint(gradient(20, 14), mask, sequence(4), 2)
    expect(new Set(image.data).size).toBeGreaterThan(5)
  })

  it('refuses a mask that asks for nothing', () => {
    const mask = { width: 20, height: 14, data: new Uint8Array(20 * 14).fill(127) }
    expect(() => prepareOutpaint(gradient(20, 14), mask, sequence(1), 2)).toThrow(
      expect.objectContaining({ code: 'bad_image', field: 'start.mask' }),
    )
  })
})
