import * as fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { resizeLanczos, resizeMask } from '#image/resize.ts'
import { readGoldenBytes } from '../support/golden.ts'

const golden = await readGoldenBytes('pixels/resize.safetensors')
const { data: source, shape } = golden.get('source')!
const [height, width] = shape
const picture = { width, height, data: source }
const mask = { width, height, data: source.filter((_, i) => i % 3 === 0) }
const sizes = [...golden.keys()].filter((name) => /^\d/.test(name)).map((name) => name.split('x').map(Number))

describe('the reference, to the bit', () => {
  it.each(sizes)('%i × %i', (toWidth, toHeight) => {
    const resized = resizeLanczos(picture, toWidth, toHeight)
    expect([resized.width, resized.height]).toEqual([toWidth, toHeight])
    expect(Buffer.compare(resized.data, golden.get(`${toWidth}x${toHeight}`)!.data)).toBe(0)
    const gray = resizeMask(mask, toWidth, toHeight)
    expect(Buffer.compare(gray.data, golden.get(`gray.${toWidth}x${toHeight}`)!.data)).toBe(0)
  })

  it('has growing, shrinking, both at once, and the same size', () => {
    expect(sizes.length).toBe(12)
  })
})

describe('every size', () => {
  const size = fc.integer({ min: 1, max: 40 })

  it('keeps one colour', () => {
    fc.assert(
      fc.property(size, size, size, size, fc.nat(255), (w, h, toWidth, toHeight, value) => {
        const flat = { width: w, height: h, data: new Uint8Array(3 * w * h).fill(value) }
        const { data } = resizeLanczos(flat, toWidth, toHeight)
        expect(data.length).toBe(3 * toWidth * toHeight)
        expect(data.every((sample) => sample === value)).toBe(true)
      }),
    )
  })

  it('treats channels alike and leaves its input', () => {
    fc.assert(
      fc.property(size, size, fc.uint8Array({ minLength: 64, maxLength: 64 }), (toWidth, toHeight, data) => {
        const before = data.slice()
        const gray = resizeMask({ width: 8, height: 8, data }, toWidth, toHeight)
        const tripled = Uint8Array.from({ length: 192 }, (_, i) => data[Math.floor(i / 3)])
        const rgb = resizeLanczos({ width: 8, height: 8, data: tripled }, toWidth, toHeight)
        expect(rgb.data.every((sample, i) => sample === gray.data[Math.floor(i / 3)])).toBe(true)
        expect(data).toEqual(before)
        expect(gray.data.buffer).not.toBe(data.buffer)
      }),
    )
  })
})
