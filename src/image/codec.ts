// Pictures out: a decoded tensor becomes bytes of RGB as the reference rounds them, and those become a PNG or a JPEG.
// sharp writes no text chunks, so the PNG's are put in here (PNG 3rd edition, §11.3.3).
import { crc32 } from 'node:zlib'
import sharp, { type Sharp } from 'sharp'
import type { Tensor } from '#tensor/tensor.ts'
import { AppError } from '../errors.ts'

/** A picture of 8 bits a channel: rows from the top, RGB interleaved, `data.length = 3 · width · height`. */
export type Pixels = { readonly width: number; readonly height: number; readonly data: Uint8Array }

/** A picture of one 8-bit channel, such as a mask: rows from the top, `data.length = width · height`. */
export type GrayPixels = { readonly width: number; readonly height: number; readonly data: Uint8Array }

const pngSignature = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a)
/** The signature and the IHDR chunk (8 + 13 + 4 bytes), which must come first. */
const headerLength = 8 + 25

/**
 * The RGB bytes of a decoded picture of shape (3, H, W) with values in [-1, 1]: clip(x/2 + 0.5), times 255 in fp32,
 * rounded half to even, as diffusers' VaeImageProcessor and numpy_to_pil do. Values outside are clipped; NaN throws
 * `not_finite`.
 */
export function toPixels(image: Tensor): Pixels {
  const [channels, height, width] = image.shape
  if (image.shape.length !== 3 || channels !== 3 || height === undefined || width === undefined)
    throw new AppError('internal', `toPixels: shape [${image.shape.join(', ')}] is not (3, H, W)`)
  const plane = height * width
  const data = new Uint8Array(3 * plane)
  for (let channel = 0; channel < 3; channel++) {
    const source = image.data.subarray(channel * plane, (channel + 1) * plane)
    for (let index = 0; index < plane; index++) {
      const unit = Math.fround(source[index] * 0.5 + 0.5)
      if (Number.isNaN(unit)) throw new AppError('not_finite', `picture: pixel ${index} of channel ${channel} is NaN`)
      data[3 * index + channel] = roundHalfToEven(Math.fround(Math.min(Math.max(unit, 0), 1) * 255))
    }
  }
  return { width, height, data }
}

/**
 * A PNG with `text` as text chunks in the order of its keys. The same input gives the same bytes. Keywords are 1 to 79
 * printable Latin-1 characters; a keyword or text that PNG cannot hold throws `bad_argument` (see {@link checkPngText}).
 */
export async function encodePng(pixels: Pixels, text: Readonly<Record<string, string>> = {}): Promise<Uint8Array> {
  checkPngText(text)
  const png = await raw(pixels).png({ compressionLevel: 4, adaptiveFiltering: true, palette: false }).toBuffer()
  const chunks = Object.entries(text).map(([keyword, value]) => textChunk(keyword, value))
  return Buffer.concat([png.subarray(0, headerLength), ...chunks, png.subarray(headerLength)])
}

/**
 * A baseline JPEG of `quality` 1 to 100 without chroma subsampling (4:4:4), so that coloured edges stay as sharp as the
 * picture's. It carries no metadata.
 */
export async function encodeJpeg(pixels: Pixels, quality = 95): Promise<Uint8Array> {
  if (!Number.isInteger(quality) || quality < 1 || quality > 100)
    throw new AppError('bad_argument', `quality: ${quality} is not an integer from 1 to 100`)
  return raw(pixels).jpeg({ quality, chromaSubsampling: '4:4:4' }).toBuffer()
}

/** Throws `bad_argument` when a PNG cannot hold `text`, so that it is known before the picture is computed. */
export function checkPngText(text: Readonly<Record<string, string>>): void {
  for (const [keyword, value] of Object.entries(text)) {
    if (
      !/^[\x21-\x7e\xa1-\xff](?:[\x20-\x7e\xa1-\xff]{0,77}[\x21-\x7e\xa1-\xff])?$/.test(keyword) ||
      /  /.test(keyword)
    )
      throw new AppError(
        'bad_argument',
        `text keyword: ${JSON.stringify(keyword)} is not 1 to 79 printable Latin-1 characters with single spaces inside`,
      )
    if (value.includes('\0') || !value.isWellFormed())
      throw new AppError('bad_argument', `text "${keyword}": a NUL or half a surrogate pair cannot be stored in a PNG`)
  }
}

/** The texts of a PNG's uncompressed tEXt and iTXt chunks by keyword; throws `bad_file` when the chunks are damaged. */
export function readPngText(bytes: Uint8Array): Record<string, string> {
  if (!pngSignature.every((byte, index) => bytes[index] === byte))
    throw new AppError('bad_file', 'PNG: no PNG signature')
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const text: Record<string, string> = {}
  let offset = pngSignature.length
  for (;;) {
    if (offset + 12 > view.length)
      throw new AppError('bad_file', `PNG: ends at byte ${view.length} without an IEND chunk`)
    const length = view.readUInt32BE(offset)
    if (offset + 12 + length > view.length) throw new AppError('bad_file', `PNG: chunk at byte ${offset} is cut off`)
    const type = view.toString('latin1', offset + 4, offset + 8)
    const data = view.subarray(offset + 8, offset + 8 + length)
    if (crc32(view.subarray(offset + 4, offset + 8 + length)) !== view.readUInt32BE(offset + 8 + length))
      throw new AppError('bad_file', `PNG: wrong CRC of the ${type} chunk at byte ${offset}`)
    if (type === 'IEND') return text
    if (type === 'tEXt') readLatinText(data, text)
    if (type === 'iTXt') readInternationalText(data, text)
    offset += 12 + length
  }
}

function raw(pixels: Pixels): Sharp {
  const { width, height, data } = pixels
  if (data.length !== 3 * width * height)
    throw new AppError('internal', `pixels: ${data.length} bytes are not 3 × ${width} × ${height}`)
  return sharp(data, { raw: { width, height, channels: 3 } })
}

/** numpy's and IEEE's rounding: Math.round takes halves up instead. */
function roundHalfToEven(value: number): number {
  const rounded = Math.round(value)
  return rounded - value === 0.5 && rounded % 2 === 1 ? rounded - 1 : rounded
}

/** tEXt where Latin-1 has all characters (line feeds are its only control characters), else iTXt in UTF-8. */
function textChunk(keyword: string, value: string): Buffer {
  const key = Buffer.from(keyword, 'latin1')
  if (/^[\n\x20-\x7e\xa0-\xff]*$/.test(value))
    return chunk('tEXt', Buffer.concat([key, Buffer.of(0), Buffer.from(value, 'latin1')]))
  // After the keyword: compression flag, compression method, language tag, translated keyword, each empty or 0.
  return chunk('iTXt', Buffer.concat([key, Buffer.of(0, 0, 0, 0, 0), Buffer.from(value, 'utf8')]))
}

function chunk(type: string, data: Buffer): Buffer {
  const typed = Buffer.concat([Buffer.from(type, 'latin1'), data])
  const length = Buffer.alloc(4)
  length.writeUInt32BE(data.length)
  const checksum = Buffer.alloc(4)
  checksum.writeUInt32BE(crc32(typed))
  return Buffer.concat([length, typed, checksum])
}

function readLatinText(data: Buffer, text: Record<string, string>): void {
  const end = data.indexOf(0)
  if (end < 1) throw new AppError('bad_file', 'PNG: tEXt chunk without a keyword')
  text[data.toString('latin1', 0, end)] = data.toString('latin1', end + 1)
}

function readInternationalText(data: Buffer, text: Record<string, string>): void {
  const end = data.indexOf(0)
  const languageEnd = data.indexOf(0, end + 3)
  const translatedEnd = data.indexOf(0, languageEnd + 1)
  if (end < 1 || languageEnd < 0 || translatedEnd < 0)
    throw new AppError('bad_file', 'PNG: iTXt chunk without its fields')
  // A compressed text is left out, as the docstring says: nothing here writes one.
  if (data[end + 1] === 0) text[data.toString('latin1', 0, end)] = data.toString('utf8', translatedEnd + 1)
}
