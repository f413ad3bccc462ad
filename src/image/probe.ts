// What a picture file is, read from its headers alone: nothing is decompressed, so a bomb is refused before it can go off.
// The kind is decided by the first bytes, never by a name. Formats: JPEG (ITU-T T.81), PNG (3rd edition), WebP (RFC 9649),
// Exif (CIPA DC-008).
import { AppError } from '../errors.ts'

/** A picture file's kind, its size as it is to be seen, and how its stored rows are turned for that (Exif, 1 to 8). */
export type PictureInfo = {
  readonly format: 'jpeg' | 'png' | 'webp'
  /** Pixels, after turning. */
  readonly width: number
  readonly height: number
  readonly orientation: number
}

/** The most pixels that a picture may have. */
export const maxPicturePixels = 4096 * 4096

type Headers = { width: number; height: number; orientation: number; animated: boolean }

/**
 * Look at a picture's headers. Throws `bad_image`, naming `field`, for anything but a JPEG, PNG or WebP, for an animation,
 * for headers that are cut off, and for more than {@link maxPicturePixels}.
 */
export function probePicture(bytes: Uint8Array, field: string): PictureInfo {
  const format = formatOf(bytes)
  if (format === null) throw badImage(field, 'is no JPEG, PNG or WebP picture')
  const { width, height, orientation, animated } = readHeaders(bytes, format, field)
  if (animated) throw badImage(field, 'is an animation; give a still picture')
  if (width === 0 || height === 0) throw badImage(field, `has no pixels (${width}×${height})`)
  if (width * height > maxPicturePixels)
    throw badImage(field, `has ${width}×${height} pixels; a picture may have as many as 4096×4096`)
  const turned = orientation > 4
  return { format, width: turned ? height : width, height: turned ? width : height, orientation }
}

/** `bad_image` about the picture in `field`; `what` goes on from "the picture". */
export function badImage(field: string, what: string, cause?: unknown): AppError {
  return new AppError('bad_image', `${field}: the picture ${what}`, { field, cause })
}

const pngSignature = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a)

function formatOf(bytes: Uint8Array): PictureInfo['format'] | null {
  if (bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff) return 'jpeg'
  if (pngSignature.every((byte, index) => bytes[index] === byte)) return 'png'
  if (ascii(bytes, 0, 4) === 'RIFF' && ascii(bytes, 8, 4) === 'WEBP') return 'webp'
  return null
}

function readHeaders(bytes: Uint8Array, format: PictureInfo['format'], field: string): Headers {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  try {
    if (format === 'jpeg') return jpegHeaders(bytes, view)
    return format === 'png' ? pngHeaders(bytes, view) : webpHeaders(bytes, view)
  } catch (error) {
    // DataView throws where the file ends before what its headers promise.
    if (error instanceof RangeError) throw badImage(field, 'is cut off or damaged', error)
    throw error
  }
}

/** Segments up to the frame header. */
function jpegHeaders(bytes: Uint8Array, view: DataView): Headers {
  let orientation = 1
  for (let at = 2; ;) {
    // Any number of 0xff may stand before a marker.
    while (view.getUint8(at) === 0xff && view.getUint8(at + 1) === 0xff) at += 1
    if (view.getUint8(at) !== 0xff) throw new RangeError(`no marker at byte ${at}`)
    const marker = view.getUint8(at + 1)
    const length = view.getUint16(at + 2)
    if (marker === 0xe1 && ascii(bytes, at + 4, 6) === 'Exif\0\0')
      orientation = exifOrientation(bytes.subarray(at + 10, at + 2 + length)) ?? orientation
    if (isFrameMarker(marker))
      return { height: view.getUint16(at + 5), width: view.getUint16(at + 7), orientation, animated: false }
    if (marker === 0xda || marker === 0xd9) throw new RangeError('no frame header before the data')
    at += 2 + length
  }
}

/** SOF0 to SOF15 without DHT, JPG and DAC, which lie among them. */
function isFrameMarker(marker: number): boolean {
  return marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc
}

/** All chunks, since Exif may follow the data. */
function pngHeaders(bytes: Uint8Array, view: DataView): Headers {
  if (ascii(bytes, 12, 4) !== 'IHDR') throw new RangeError('no IHDR chunk')
  const headers = { width: view.getUint32(16), height: view.getUint32(20), orientation: 1, animated: false }
  for (let at = 8; ;) {
    const length = view.getUint32(at)
    const type = ascii(bytes, at + 4, 4)
    if (type === 'IEND') return headers
    if (type === 'acTL') headers.animated = true
    if (type === 'eXIf') headers.orientation = exifOrientation(bytes.subarray(at + 8, at + 8 + length)) ?? 1
    at += 12 + length
  }
}

function webpHeaders(bytes: Uint8Array, view: DataView): Headers {
  const headers = { width: 0, height: 0, orientation: 1, animated: false }
  const end = Math.min(bytes.length, view.getUint32(4, true) + 8)
  for (let at = 12; at + 8 <= end;) {
    const type = ascii(bytes, at, 4)
    const length = view.getUint32(at + 4, true)
    const data = at + 8
    if (type === 'VP8X') {
      headers.animated = (view.getUint8(data) & 0x02) !== 0
      headers.width = 1 + (view.getUint32(data + 4, true) & 0xffffff)
      headers.height = 1 + (view.getUint32(data + 6, true) >>> 8)
    } else if (type === 'VP8 ' && headers.width === 0) {
      headers.width = view.getUint16(data + 6, true) & 0x3fff
      headers.height = view.getUint16(data + 8, true) & 0x3fff
    } else if (type === 'VP8L' && headers.width === 0) {
      const packed = view.getUint32(data + 1, true)
      headers.width = 1 + (packed & 0x3fff)
      headers.height = 1 + ((packed >>> 14) & 0x3fff)
    } else if (type === 'EXIF') {
      const exif = bytes.subarray(data, data + length)
      headers.orientation = exifOrientation(ascii(exif, 0, 6) === 'Exif\0\0' ? exif.subarray(6) : exif) ?? 1
    }
    // Chunks are padded to even lengths.
    at = data + length + (length & 1)
  }
  if (headers.width === 0) throw new RangeError('no image chunk')
  return headers
}

/** Tag 0x0112 of the first directory of a TIFF structure; null where there is none that means anything. */
function exifOrientation(tiff: Uint8Array): number | null {
  const view = new DataView(tiff.buffer, tiff.byteOffset, tiff.byteLength)
  const little = ascii(tiff, 0, 2) === 'II'
  if (!little && ascii(tiff, 0, 2) !== 'MM') return null
  try {
    const directory = view.getUint32(4, little)
    const entries = view.getUint16(directory, little)
    for (let entry = 0; entry < entries; entry++) {
      const at = directory + 2 + 12 * entry
      if (view.getUint16(at, little) !== 0x0112) continue
      const value = view.getUint16(at + 8, little)
      return value >= 1 && value <= 8 ? value : null
    }
  } catch (error) {
    // Metadata that is damaged says nothing about the picture; every reader goes on without it.
    if (!(error instanceof RangeError)) throw error
  }
  return null
}

function ascii(bytes: Uint8Array, at: number, length: number): string {
  return String.fromCharCode(...bytes.subarray(at, at + length))
}
