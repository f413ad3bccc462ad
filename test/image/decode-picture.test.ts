import { describe, expect, it } from 'vitest'
import * as fc from 'fast-check'
import sharp from 'sharp'
import { decodeMask, decodePicture } from '#image/decode-picture.ts'
import { probePicture } from '#image/probe.ts'
import { AppError } from '../../src/errors.ts'
import { readGoldenBytes } from '../support/golden.ts'

const golden = await readGoldenBytes('pixels/decode.safetensors')
const names = [...golden.keys()].filter((key) => key.endsWith('.file')).map((key) => key.replace(/\.file$/, ''))
const fileOf = (name: string): Uint8Array => golden.get(`${name}.file`)!.data

describe('the reference', () => {
  it.each(names)('%s: the same pixels, the same grey', async (name) => {
    const rgb = golden.get(`${name}.rgb`)!
    const [height, width] = rgb.shape
    const pixels = await decodePicture(fileOf(name), 'image')
    expect([pixels.width, pixels.height]).toEqual([width, height])
    expect(Buffer.compare(pixels.data, rgb.data)).toBe(0)
    const mask = await decodeMask(fileOf(name), 'mask')
    expect([mask.width, mask.height]).toEqual([width, height])
    expect(Buffer.compare(mask.data, golden.get(`${name}.gray`)!.data)).toBe(0)
  })

  it('has every format, the alpha kinds, 16 bits and all eight orientations', () => {
    expect(names.length).toBeGreaterThanOrEqual(27)
    const formats = names.map((name) => probePicture(fileOf(name), 'image').format)
    expect(new Set(formats)).toEqual(new Set(['jpeg', 'png', 'webp']))
    const orientations = names.map((name) => probePicture(fileOf(name), 'image').orientation)
    expect(new Set(orientations)).toEqual(new Set([1, 2, 3, 4, 5, 6, 7, 8]))
  })
})

describe('probePicture', () => {
  it.each(names)('%s: the size of the decoded picture', async (name) => {
    const { width, height } = await decodePicture(fileOf(name), 'image')
    expect(probePicture(fileOf(name), 'image')).toMatchObject({ width, height })
  })

  it('ignores damaged Exif, as other readers do', () => {
    const file = fileOf('exif-6').slice()
    const at = Buffer.from(file).indexOf('Exif\0\0') + 6
    // The first directory would begin far outside.
    new DataView(file.buffer, file.byteOffset).setUint32(at + 4, 0xfffffff0)
    expect(probePicture(file, 'image').orientation).toBe(1)
  })
})

describe('refused, naming the field', () => {
  /** The message of the refusal that both ways of decoding give. */
  async function refusal(bytes: Uint8Array): Promise<string> {
    const outcomes = await Promise.allSettled([decodePicture(bytes, 'init_image'), decodeMask(bytes, 'init_image')])
    const messages = outcomes.map((outcome) => {
      const error = outcome.status === 'rejected' ? (outcome.reason as unknown) : null
      if (!(error instanceof AppError) || error.code !== 'bad_image' || error.field !== 'init_image') throw error
      return error.message
    })
    expect(messages[1]).toBe(messages[0])
    return messages[0]
  }
  const text = (content: string) => new TextEncoder().encode(content)
  const blank = (width: number, height: number) => sharp({ create: { width, height, channels: 3, background: 'red' } })

  it.each([
    ['nothing', new Uint8Array()],
    ['one byte', Uint8Array.of(0xff)],
    ['text', text('a picture of a cat')],
    ['SVG', text('<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><rect width="8" height="8"/></svg>')],
    ['GIF', Buffer.from('R0lGODlhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs=', 'base64')],
    ['PDF', text('%PDF-1.7\n')],
  ])('%s', async (_, bytes) => {
    expect(await refusal(bytes)).toMatch(/^init_image: the picture is no JPEG, PNG or WebP picture$/)
  })

  it('a TIFF, whatever libvips could do with it', async () => {
    expect(await refusal(await blank(8, 8).tiff().toBuffer())).toMatch(/is no JPEG, PNG or WebP/)
  })

  it('a bomb, by its headers alone', async () => {
    const small = await blank(16, 16).png().toBuffer()
    new DataView(small.buffer, small.byteOffset).setUint32(16, 14_000)
    new DataView(small.buffer, small.byteOffset).setUint32(20, 14_000)
    expect(await refusal(small)).toMatch(/has 14000×14000 pixels; a picture may have as many as 4096×4096/)
  })

  it('a real bomb of 5000×5000, and takes 4096×4096', async () => {
    expect(await refusal(await blank(5000, 5000).png().toBuffer())).toMatch(/5000×5000 pixels/)
    expect(probePicture(await blank(4096, 4096).webp().toBuffer(), 'image')).toMatchObject({ width: 4096 })
  })

  it('a file whose header lies about its size', async () => {
    const png = Buffer.from(await blank(16, 16).png().toBuffer())
    png.writeUInt32BE(64, 16)
    expect(await refusal(png)).toMatch(/damaged/)
  })

  it('animations', async () => {
    const frames = Buffer.concat([Buffer.alloc(3 * 64, 10), Buffer.alloc(3 * 64, 200)])
    const raw = { width: 8, height: 16, channels: 3 as const, pageHeight: 8 }
    const webp = sharp(frames, { raw }).webp({ loop: 0, delay: [100, 100] })
    expect(await refusal(await webp.toBuffer())).toMatch(/is an animation/)
    const png = Buffer.from(await blank(8, 8).png().toBuffer())
    const control = Buffer.alloc(20)
    control.writeUInt32BE(8, 0)
    control.write('acTL', 4)
    expect(await refusal(Buffer.concat([png.subarray(0, 33), control, png.subarray(33)]))).toMatch(/is an animation/)
  })

  it('CMYK', async () => {
    expect(await refusal(await blank(8, 8).toColourspace('cmyk').jpeg().toBuffer())).toMatch(/is CMYK/)
  })

  it.each(['jpeg420', 'jpeg-progressive', 'png', 'png-palette', 'webp', 'webp-lossless'])(
    '%s cut short anywhere',
    async (name) => {
      const file = fileOf(name)
      // The last bytes of a PNG are the checksum of an empty chunk, those of a JPEG its end mark.
      for (let length = 0; length < file.length - 8; length += 13)
        expect(await refusal(file.subarray(0, length))).toMatch(/cut off|damaged|no JPEG|no pixels/)
    },
  )

  it('any damage is an error or a picture, never a crash or another error', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...names),
        fc.array(fc.tuple(fc.nat(4000), fc.nat(255)), { minLength: 1, maxLength: 6 }),
        async (name, changes) => {
          const file = fileOf(name).slice()
          for (const [at, value] of changes) file[at % file.length] = value
          const [outcome] = await Promise.allSettled([decodePicture(file, 'image')])
          const isGood =
            outcome.status === 'fulfilled'
              ? outcome.value.data.length === 3 * outcome.value.width * outcome.value.height
              : outcome.reason instanceof AppError && outcome.reason.code === 'bad_image'
          expect(isGood).toBe(true)
        },
      ),
      { numRuns: 300 },
    )
  })
})
