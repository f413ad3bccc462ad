import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import type { GrayPixels } from '#image/codec.ts'
import { cropAndResize, cropAndResizeMask, cropRegion } from '#image/mask-crop.ts'
import { pasteInpainted } from '#image/paste.ts'
import { goldenFolder, readGoldenBytes } from '../support/golden.ts'

type Quad = readonly [left: number, top: number, right: number, bottom: number]
type Crops = {
  regions: {
    width: number
    height: number
    toWidth: number
    toHeight: number
    padding: number
    boxes: [number, number, number, number, number][]
    region: Quad
  }[]
  fills: { region: Quad; width: number; height: number }[]
}
const crops = JSON.parse(readFileSync(join(goldenFolder, 'pixels/crops.json'), 'utf8')) as Crops
const fills = await readGoldenBytes('pixels/fills.safetensors')
const source = fills.get('source')!
const picture = { width: source.shape[1], height: source.shape[0], data: source.data }
const regionOf = ([left, top, right, bottom]: Quad) => ({ left, top, right, bottom })

describe('the reference', () => {
  it(`the region of ${crops.regions.length} masks`, () => {
    for (const { width, height, toWidth, toHeight, padding, boxes, region } of crops.regions) {
      const mask: GrayPixels = { width, height, data: new Uint8Array(width * height) }
      for (const [left, top, right, bottom, value] of boxes)
        for (let y = top; y <= bottom; y++) mask.data.fill(value, y * width + left, y * width + right + 1)
      expect(cropRegion(mask, toWidth, toHeight, padding)).toEqual(regionOf(region))
    }
    expect(crops.regions.length).toBeGreaterThan(100)
  })

  it.each(Array.from(crops.fills.entries(), ([index, fill]) => ({ index, ...fill })))(
    '$region at $width × $height, to the bit',
    ({ region, width, height, index }) => {
      const filled = cropAndResize(picture, regionOf(region), width, height)
      expect(Buffer.compare(filled.data, fills.get(`${index}.picture`)!.data)).toBe(0)
      const red = { ...picture, data: picture.data.filter((_, i) => i % 3 === 0) }
      const mask = cropAndResizeMask(red, regionOf(region), width, height)
      expect(Buffer.compare(mask.data, fills.get(`${index}.mask`)!.data)).toBe(0)
      // The way back, seen where a region is a whole picture and all of it is pasted.
      const back = fills.get(`${index}.back`)!
      const [toHeight, toWidth] = back.shape
      const original = { width: toWidth, height: toHeight, data: new Uint8Array(back.data.length) }
      const pasted = pasteInpainted({
        original,
        painted: filled,
        mask: { width: toWidth, height: toHeight, data: new Uint8Array(toWidth * toHeight).fill(255) },
        region: { left: 0, top: 0, right: toWidth, bottom: toHeight },
        cell: 8,
      })
      expect(Buffer.compare(pasted.data, back.data)).toBe(0)
    },
  )
})

it('a mask without white leaves nothing to crop', () => {
  const black = { width: 8, height: 8, data: new Uint8Array(64) }
  expect(() => cropRegion(black, 64, 64, 32)).toThrow(
    expect.objectContaining({
      code: 'bad_image',
      field: 'start.mask',
      message: expect.stringMatching(/^mask: .*black/),
    }),
  )
})
