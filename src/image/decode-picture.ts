// Encoded pictures in: bytes of a JPEG, PNG or WebP → RGB or grey of 8 bits, as the reference's load_image and PIL's
// conversions make them. Colour profiles and gamma are left alone, as there.
import sharp from 'sharp'
import type { GrayPixels, Pixels } from './codec.ts'
import { badImage, maxPicturePixels, probePicture } from './probe.ts'

/**
 * The picture, turned as its Exif says, as RGB; transparency is dropped, of 16 bits a channel the upper eight are taken.
 * Throws `bad_image`, naming `field`, for what {@link probePicture} refuses, for CMYK, and for damaged or cut data.
 */
export async function decodePicture(bytes: Uint8Array, field: string): Promise<Pixels> {
  const { orientation, ...turned } = probePicture(bytes, field)
  const stored = await decode(bytes, field)
  const pixels = orient(stored, orientation)
  // What libvips saw is what was measured against the limit.
  if (pixels.width !== turned.width || pixels.height !== turned.height)
    throw badImage(field, `says ${turned.width}×${turned.height} and is ${pixels.width}×${pixels.height}`)
  return pixels
}

/**
 * The picture as grey: ITU-R 601 luma in PIL's fixed point, L = (19595 R + 38470 G + 7471 B + 2¹⁵) / 2¹⁶ rounded down.
 * Throws as {@link decodePicture} does.
 */
export async function decodeMask(bytes: Uint8Array, field: string): Promise<GrayPixels> {
  const { width, height, data } = await decodePicture(bytes, field)
  const gray = new Uint8Array(width * height)
  for (let i = 0, at = 0; i < gray.length; i++, at += 3)
    gray[i] = (19595 * data[at] + 38470 * data[at + 1] + 7471 * data[at + 2] + 0x8000) >>> 16
  return { width, height, data: gray }
}

async function decode(bytes: Uint8Array, field: string): Promise<Pixels> {
  // Pillow reads JPEGs with harmless oddities, of which libjpeg warns; what is missing or broken is an error in both.
  const image = sharp(bytes, { ignoreIcc: true, limitInputPixels: maxPicturePixels, failOn: 'error' })
  try {
    const { space } = await image.metadata()
    if (space === 'cmyk') throw badImage(field, 'is CMYK, made for printing; convert it to RGB')
    const deep = space === 'grey16' || space === 'rgb16'
    if (!deep && space !== 'srgb' && space !== 'b-w')
      throw badImage(field, `has the colour space ${space}; use RGB or grey`)
    const { data, info } = await image
      .removeAlpha()
      .toColourspace(deep ? space : 'srgb')
      .raw({ depth: deep ? 'ushort' : 'uchar' })
      .toBuffer({ resolveWithObject: true })
    const samples = deep ? upperBytes(data) : new Uint8Array(data.buffer, data.byteOffset, data.length)
    return { width: info.width, height: info.height, data: info.channels === 1 ? tripled(samples) : samples }
  } catch (error) {
    if (!(error instanceof Error) || error.name === 'AppError') throw error
    // libvips collects its messages for all threads together, so that they may be another picture's.
    throw badImage(field, 'is cut off or damaged', error)
  }
}

/** libvips' own way from 16 bits to 8 goes through gamma; the reference's is the upper byte. */
function upperBytes(data: Buffer): Uint8Array {
  const words = new Uint16Array(data.buffer, data.byteOffset, data.length / 2)
  return Uint8Array.from(words, (word) => word >>> 8)
}

function tripled(gray: Uint8Array): Uint8Array {
  const data = new Uint8Array(3 * gray.length)
  for (let i = 0; i < gray.length; i++) data.fill(gray[i], 3 * i, 3 * i + 3)
  return data
}

/** Exif's eight ways of holding a camera, undone. */
function orient(pixels: Pixels, orientation: number): Pixels {
  if (orientation === 1) return pixels
  const { width: w, height: h, data } = pixels
  const turned = orientation > 4
  const [width, height] = turned ? [h, w] : [w, h]
  // Where the turned picture's first pixel lies in the stored one, and the way to the next column and row, in pixels.
  const last = w * h - 1
  const ways: Readonly<Record<number, readonly [first: number, column: number, row: number]>> = {
    2: [w - 1, -1, w],
    3: [last, -1, -w],
    4: [last - (w - 1), 1, -w],
    5: [0, w, 1],
    6: [last - (w - 1), -w, 1],
    7: [last, -w, -1],
    8: [w - 1, w, -1],
  }
  const [first, column, row] = ways[orientation]
  const result = new Uint8Array(data.length)
  let to = 0
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++, to += 3) {
      const from = 3 * (first + x * column + y * row)
      result[to] = data[from]
      result[to + 1] = data[from + 1]
      result[to + 2] = data[from + 2]
    }
  }
  return { width, height, data: result }
}
