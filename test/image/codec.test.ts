import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import * as fc from 'fast-check'
import sharp from 'sharp'
import { describe, expect, it } from 'vitest'
import { checkPngText, encodeJpeg, encodePng, readPngText, toPixels, type Pixels } from '#image/codec.ts'
import { goldenFolder, readGolden, readGoldenIntegers } from '../support/golden.ts'

/** A picture in which every pixel differs from its neighbours. */
function pattern(width: number, height: number): Pixels {
  return { width, height, data: Uint8Array.from({ length: 3 * width * height }, (_, i) => (i * 37 + (i >> 5)) & 255) }
}

/** The chunks of a PNG: type, data, and whether the CRC is right. */
function chunksOf(png: Uint8Array): { type: string; data: Buffer; valid: boolean }[] {
  const bytes = Buffer.from(png)
  const chunks = []
  for (let at = 8; at < bytes.length;) {
    const length = bytes.readUInt32BE(at)
    const typed = bytes.subarray(at + 4, at + 8 + length)
    const valid = bytes.readUInt32BE(at + 8 + length) === crc32(typed)
    chunks.push({ type: typed.toString('latin1', 0, 4), data: typed.subarray(4), valid })
    at += 12 + length
  }
  return chunks
}

describe('toPixels', () => {
  it('rounds and clips every value as the reference does', async () => {
    const decoded = (await readGolden('pictures/pixels.safetensors')).get('decoded')!
    const expected = await readGoldenIntegers('pictures/pixels.safetensors', 'rgb')
    const pixels = toPixels(decoded)
    expect([pixels.width, pixels.height]).toEqual([96, 8])
    expect([...pixels.data]).toEqual(expected)
    // The fixture has what it is for: all 256 values.
    expect(new Set(expected).size).toBe(256)
  })

  it('refuses NaN and other shapes', () => {
    const shape = [3, 1, 1]
    expect(() => toPixels({ shape, data: Float32Array.of(0, Number.NaN, 0) })).toThrow(/pixel 0 of channel 1 is NaN/)
    expect(() => toPixels({ shape: [1, 3, 1, 1], data: new Float32Array(3) })).toThrow(/\[1, 3, 1, 1\] is not/)
    expect(() => toPixels({ shape: [4, 1, 1], data: new Float32Array(4) })).toThrow(/is not \(3, H, W\)/)
  })
})

describe('encodePng', () => {
  const text = { prompt: 'a café, (red:1.2)\nsecond line', seed: '42', negative: '猫 🐈', empty: '', tab: 'a\tb' }

  it('keeps every pixel and every text', async () => {
    const pixels = pattern(37, 21)
    const png = await encodePng(pixels, text)
    const { data, info } = await sharp(png).raw().toBuffer({ resolveWithObject: true })
    expect(info).toMatchObject({ width: 37, height: 21, channels: 3 })
    expect(Buffer.compare(data, pixels.data)).toBe(0)
    expect(readPngText(png)).toEqual(text)
  })

  it('puts the texts between IHDR and the pixels, as tEXt where Latin-1 is enough, with right checksums', async () => {
    const chunks = chunksOf(await encodePng(pattern(4, 4), text))
    expect(chunks.every(({ valid }) => valid)).toBe(true)
    const types = chunks.map(({ type }) => type)
    expect(types.slice(0, 6)).toEqual(['IHDR', 'tEXt', 'tEXt', 'iTXt', 'tEXt', 'iTXt'])
    expect(types.indexOf('IDAT')).toBeGreaterThan(5)
    expect(types.at(-1)).toBe('IEND')
    expect(chunks[1].data).toEqual(Buffer.from(`prompt\0${text.prompt}`, 'latin1'))
    expect(chunks[3].data).toEqual(Buffer.from(`negative\0\0\0\0\0${text.negative}`, 'utf8'))
    // Nothing that depends on the moment or the machine.
    expect(types.filter((type) => ['tIME', 'eXIf', 'iCCP'].includes(type))).toEqual([])
  })

  it('gives the same bytes for the same picture', async () => {
    const [a, b] = await Promise.all([encodePng(pattern(64, 64), text), encodePng(pattern(64, 64), text)])
    expect(Buffer.compare(a, b)).toBe(0)
  })

  it('stores any text that is one', async () => {
    const texts = fc.dictionary(
      fc.stringMatching(/^[!-~]{1,79}$/).filter((keyword) => keyword !== '__proto__'),
      fc.string({ unit: 'grapheme' }).filter((value) => !value.includes('\0')),
      { noNullPrototype: true },
    )
    await fc.assert(
      fc.asyncProperty(texts, async (values) => {
        expect(readPngText(await encodePng(pattern(1, 1), values))).toEqual(values)
      }),
      { numRuns: 100 },
    )
  })

  it.each(['', ' a', 'a ', 'a  b', 'a\nb', 'ключ', 'x'.repeat(80), 'a\u00a0b', 'a\0b'])(
    'refuses the keyword %j',
    (keyword) => {
      expect(() => checkPngText({ [keyword]: 'x' })).toThrow(/text keyword: ".*" is not 1 to 79/)
    },
  )

  it.each(['a\0b', 'half \ud83d'])('refuses the text %j', async (value) => {
    await expect(encodePng(pattern(1, 1), { prompt: value })).rejects.toMatchObject({
      code: 'bad_argument',
      message: expect.stringContaining('text "prompt"'),
    })
  })

  it('refuses a wrong number of bytes', async () => {
    await expect(encodePng({ width: 2, height: 2, data: new Uint8Array(11) })).rejects.toThrow(
      '11 bytes are not 3 × 2 × 2',
    )
  })
})

describe('readPngText', () => {
  it("reads another writer's chunks and leaves compressed ones out", async () => {
    const png = await readFile(join(goldenFolder, 'pictures/text.png'))
    expect(readPngText(png)).toEqual({ prompt: 'a café, (red:1.2)\nsecond line', negative: '猫 🐈 İ', empty: '' })
  })

  it('refuses what is damaged', async () => {
    const png = await encodePng(pattern(2, 2), { prompt: 'x' })
    const flipped = Buffer.from(png)
    flipped[50] ^= 1
    expect(() => readPngText(flipped)).toThrow(/wrong CRC|cut off/)
    expect(() => readPngText(png.subarray(0, -12))).toThrow(/without an IEND/)
    expect(() => readPngText(png.subarray(0, 45))).toThrow(/cut off/)
    expect(() => readPngText(Buffer.from('GIF89a'))).toThrow(/no PNG signature/)
  })
})

describe('encodeJpeg', () => {
  it('is a baseline JPEG without subsampled chroma and without metadata', async () => {
    const jpeg = await encodeJpeg(pattern(32, 16))
    expect(await sharp(jpeg).metadata()).toMatchObject({
      format: 'jpeg',
      width: 32,
      height: 16,
      chromaSubsampling: '4:4:4',
      isProgressive: false,
    })
    expect((await sharp(jpeg).metadata()).exif).toBeUndefined()
  })

  it('stays near the picture at the default quality, and nearer than at a low one', async () => {
    const { width, height } = { width: 64, height: 64 }
    const data = Uint8Array.from({ length: 3 * width * height }, (_, i) => (Math.floor(i / 3) % 64) * 2 + (i % 3) * 40)
    const error = async (quality?: number): Promise<number> => {
      const decoded = await sharp(await encodeJpeg({ width, height, data }, quality))
        .raw()
        .toBuffer()
      return decoded.reduce((sum, value, i) => sum + Math.abs(value - data[i]), 0) / data.length
    }
    expect(await error()).toBeLessThan(1)
    expect(await error(20)).toBeGreaterThan(2 * (await error()))
  })

  it.each([0, 101, 95.5, Number.NaN])('refuses quality %d', async (quality) => {
    await expect(encodeJpeg(pattern(2, 2), quality)).rejects.toMatchObject({
      code: 'bad_argument',
      message: `quality: ${quality} is not an integer from 1 to 100`,
    })
  })
})
