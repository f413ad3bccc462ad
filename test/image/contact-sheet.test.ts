import { describe, expect, it } from 'vitest'
import { ContactSheet } from '#image/contact-sheet.ts'

const flat = (width: number, height: number, value: number) => ({
  width,
  height,
  data: new Uint8Array(3 * width * height).fill(value),
})

describe('ContactSheet', () => {
  it('sets pictures in rows, with white between them', () => {
    const sheet = new ContactSheet()
    for (const value of [10, 20, 30]) sheet.add(flat(4, 2, value))
    const { width, height, data } = sheet.render()
    expect([width, height]).toEqual([2 * 12 + 8, 2 * 10 + 8])
    const at = (x: number, y: number) => data[3 * (y * width + x)]
    expect([at(8, 8), at(11, 9), at(20, 8), at(8, 18)]).toEqual([10, 10, 20, 30])
    expect([at(7, 8), at(12, 8), at(20, 18), at(0, 0)]).toEqual([255, 255, 255, 255])
    expect(data.filter((value) => value === 20).length).toBe(3 * 8)
  })

  it('takes as many columns as it is told', () => {
    const sheet = new ContactSheet()
    for (const value of [1, 2, 3, 4]) sheet.add(flat(4, 4, value))
    expect(sheet.render(4)).toMatchObject({ width: 4 * 12 + 8, height: 12 + 8 })
    expect(sheet.render(1)).toMatchObject({ width: 12 + 8, height: 4 * 12 + 8 })
  })

  it('makes long pictures small, in their shape', () => {
    const sheet = new ContactSheet(100)
    sheet.add(flat(400, 200, 7))
    sheet.add(flat(100, 3, 9))
    const { width, height, data } = sheet.render()
    expect([width, height]).toEqual([2 * 108 + 8, 50 + 16])
    expect(data[3 * (8 * width + 8)]).toBe(7)
    expect(data.filter((value) => value === 9).length).toBe(3 * 300)
  })
})
