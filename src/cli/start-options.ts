// What a picture starts from, from the options of `sepia generate` to a task's start: pictures read and tried, the
// canvas of an outpainting made, sizes chosen. Nothing is written here.
import type { GrayPixels, Pixels } from '#image/codec.ts'
import type { Sides } from '#image/outpaint.ts'
import type { TaskStart } from '#worker/protocol.ts'
import { AppError } from '../errors.ts'
import { numberAbove, wholeNumber } from './option-values.ts'
import { pictureFile, readPictureFile, type PictureFile } from './picture-file.ts'
import { canvasSize, otherSide, resultSize, type Size } from './picture-size.ts'

/** The options about a picture's start and size, as typed. */
export type StartOptions = {
  readonly initImage?: string
  readonly strength?: string
  readonly mask?: string
  readonly outpaint?: string
  /** True without a padding. */
  readonly fullRes?: string | true
  readonly width?: string
  readonly height?: string
}

/** A task's start and size, the encoded pictures that it names, and what the user should know. */
export type ResolvedStart = Size & {
  readonly start: TaskStart
  readonly pictures: readonly PictureFile[]
  readonly warnings: readonly string[]
}

const defaultSize = 1024
const defaultStrength = '0.8'
const defaultPadding = '32'
const largestSide = 4096

/** Read, check and complete. Throws `bad_argument` for options that do not go together, `bad_image` for pictures. */
export async function resolveStart(options: StartOptions): Promise<ResolvedStart> {
  checkCombination(options)
  const strength = numberAbove('--strength', options.strength ?? defaultStrength, 0, 1)
  const sides = options.outpaint === undefined ? null : parseSides(options.outpaint)
  const padding = options.fullRes === true ? defaultPadding : options.fullRes
  const fullResPadding = padding === undefined ? null : wholeNumber('--full-res', padding, 0, largestSide)
  const side = (name: '--width' | '--height', text: string | undefined): number | null =>
    text === undefined ? null : wholeNumber(name, text, 8, largestSide)
  const given = { width: side('--width', options.width), height: side('--height', options.height) }
  if (options.initImage === undefined)
    return {
      start: { mode: 'textToImage' },
      width: given.width ?? defaultSize,
      height: given.height ?? defaultSize,
      pictures: [],
      warnings: [],
    }

  // 1. the picture: decoded, so that a bad one is told at once
  const image = await readPictureFile('--init-image', options.initImage)
  const { decodeMask, decodePicture } = await import('#image/decode-picture.ts')
  const pixels = await decodePicture(image.bytes, '--init-image')
  if (sides) return outpaintStart(pixels, sides, strength)

  // 2. its size
  const { width, height } = completedSize(given, pixels)
  const isChosen = given.width === null && given.height === null
  const warnings =
    isChosen && (width !== pixels.width || height !== pixels.height)
      ? [`the picture of ${pixels.width}×${pixels.height} was scaled to ${width}×${height}; see --width and --height`]
      : []
  if (options.mask === undefined)
    return { start: { mode: 'imageToImage', image: image.hash, strength }, width, height, pictures: [image], warnings }

  // 3. the mask
  const mask = await readPictureFile('--mask', options.mask)
  checkMask(await decodeMask(mask.bytes, '--mask'))
  const start: TaskStart = { mode: 'inpaint', image: image.hash, mask: mask.hash, strength, fullResPadding }
  return { start, width, height, pictures: [image, mask], warnings }
}

function checkCombination({ initImage, strength, mask, outpaint, fullRes, width, height }: StartOptions): void {
  const needsPicture = { '--strength': strength, '--mask': mask, '--outpaint': outpaint }
  for (const [option, value] of Object.entries(needsPicture))
    if (value !== undefined && initImage === undefined)
      throw new AppError('bad_argument', `${option} needs --init-image, which is missing`)
  if (outpaint !== undefined) {
    if (mask !== undefined) throw new AppError('bad_argument', '--outpaint makes its own mask; leave out --mask')
    if (width !== undefined || height !== undefined)
      throw new AppError('bad_argument', '--outpaint makes its own size; leave out --width and --height')
    if (fullRes !== undefined)
      throw new AppError('bad_argument', '--full-res is for a --mask and cannot go with --outpaint')
  }
  if (fullRes !== undefined && mask === undefined)
    throw new AppError('bad_argument', '--full-res needs --mask, which is missing')
}

function parseSides(text: string): Sides {
  const [left, top, right, bottom, ...more] = text.split(',').map((part) => part.trim())
  if (bottom === undefined || more.length > 0)
    throw new AppError('bad_argument', `--outpaint must be four numbers LEFT,TOP,RIGHT,BOTTOM, got "${text}"`)
  const pixels = (side: string): number => wholeNumber('--outpaint: each side', side, 0, largestSide)
  const sides = { left: pixels(left), top: pixels(top), right: pixels(right), bottom: pixels(bottom) }
  if (Object.values(sides).every((value) => value === 0))
    throw new AppError('bad_argument', `--outpaint must grow a side by at least one pixel, got "${text}"`)
  return sides
}

function completedSize(given: { width: number | null; height: number | null }, picture: Size): Size {
  const advice = 'give --width and --height'
  if (given.width === null && given.height === null) return checkedSize(resultSize(picture), picture, advice)
  const width = given.width ?? otherSide(given.height!, picture.height, picture.width)
  const height = given.height ?? otherSide(given.width!, picture.width, picture.height)
  return checkedSize({ width, height }, picture, advice)
}

/** Throws `bad_argument` for a size that follows from a picture and is too long for a result. */
function checkedSize(size: Size, { width, height }: Size, advice: string): Size {
  if (Math.max(size.width, size.height) <= largestSide) return size
  throw new AppError(
    'bad_argument',
    `--init-image: ${width}×${height} would become ${size.width}×${size.height}, and a side has up to ${largestSide} ` +
      `pixels; ${advice}`,
  )
}

async function outpaintStart(pixels: Pixels, sides: Sides, strength: number): Promise<ResolvedStart> {
  const { expandCanvas } = await import('#image/outpaint.ts')
  const { resizeLanczos } = await import('#image/resize.ts')
  const { encodePng } = await import('#image/codec.ts')
  const wanted = canvasSize(pixels, sides)
  const { width, height } = wanted.picture
  const isScaled = width !== pixels.width || height !== pixels.height
  const { left, top, right, bottom } = wanted.sides
  const size = checkedSize({ width: width + left + right, height: height + top + bottom }, pixels, 'crop it first')
  const canvas = expandCanvas(isScaled ? resizeLanczos(pixels, width, height) : pixels, wanted.sides)
  const image = pictureFile(await encodePng(canvas.image))
  const mask = pictureFile(await encodePng(inColour(canvas.mask)))
  const warnings = isScaled
    ? [`the picture of ${pixels.width}×${pixels.height} was scaled to ${width}×${height} before it was extended`]
    : []
  const start: TaskStart = { mode: 'outpaint', image: image.hash, mask: mask.hash, strength }
  return { ...size, start, pictures: [image, mask], warnings }
}

function checkMask({ data }: GrayPixels): void {
  if (!data.some((value) => value >= 128))
    throw new AppError('bad_image', '--mask: no pixel of it is white, so there is nothing to paint')
}

function inColour({ width, height, data }: GrayPixels): Pixels {
  return { width, height, data: Uint8Array.from({ length: 3 * data.length }, (_, i) => data[Math.floor(i / 3)]) }
}
