import { createHash } from 'node:crypto'
import { readFileSync, truncateSync } from 'node:fs'
import path from 'node:path'
import { beforeEach, describe, expect, it } from 'vitest'
import { decodeMask, decodePicture } from '#image/decode-picture.ts'
import { resolveStart, type StartOptions } from '../../src/cli/start-options.ts'
import { saveMask, saveScene } from '../support/picture-files.ts'
import { temporaryFolder } from '../support/temporary-folder.ts'

let folder: string
let initImage: string
let mask: string

beforeEach(async () => {
  folder = await temporaryFolder('start')
  initImage = path.join(folder, 'a.png')
  mask = path.join(folder, 'm.png')
  await saveScene(folder, 'a.png', 128, 64)
  await saveMask(folder, 'm.png', [128, 64], [10, 10, 60, 50])
})

const hashOf = (file: string): string => createHash('sha256').update(readFileSync(file)).digest('hex')

describe('a start', () => {
  it('of nothing is of the default size', async () => {
    const expected = { start: { mode: 'textToImage' }, width: 1024, height: 1024, pictures: [], warnings: [] }
    expect(await resolveStart({})).toEqual(expected)
    expect(await resolveStart({ width: '512' })).toEqual({ ...expected, width: 512 })
  })

  it('with a picture has its bytes under their hash, its size and the default strength', async () => {
    const image = hashOf(initImage)
    expect(await resolveStart({ initImage })).toEqual({
      start: { mode: 'imageToImage', image, strength: 0.8 },
      width: 128,
      height: 64,
      pictures: [{ hash: image, bytes: readFileSync(initImage) }],
      warnings: [],
    })
  })

  it.each<[StartOptions, number, number]>([
    [{ width: '1024' }, 1024, 512],
    [{ height: '192' }, 384, 192],
    [{ width: '96', height: '96' }, 96, 96],
  ])('takes the size from %j and the shape from the picture', async (size, width, height) => {
    expect(await resolveStart({ initImage, ...size })).toMatchObject({ width, height, warnings: [] })
  })

  it('tells when it scales a picture by itself', async () => {
    await saveScene(folder, 'b.jpg', 100, 90)
    const resolved = await resolveStart({ initImage: path.join(folder, 'b.jpg') })
    expect(resolved).toMatchObject({ width: 128, height: 64 })
    expect(resolved.warnings).toEqual(['the picture of 100×90 was scaled to 128×64; see --width and --height'])
  })

  it('with a mask inpaints', async () => {
    const names = { image: hashOf(initImage), mask: hashOf(mask) }
    const whole = await resolveStart({ initImage, mask, strength: '1' })
    expect(whole.start).toEqual({ mode: 'inpaint', ...names, strength: 1, fullResPadding: null })
    expect(whole.pictures.map(({ hash }) => hash)).toEqual([names.image, names.mask])
    const full = await resolveStart({ initImage, mask, fullRes: true })
    expect(full.start).toMatchObject({ fullResPadding: 32 })
    expect((await resolveStart({ initImage, mask, fullRes: '0' })).start).toMatchObject({ fullResPadding: 0 })
  })

  it('with sides has a canvas and its mask', async () => {
    const { start, width, height, pictures, warnings } = await resolveStart({ initImage, outpaint: '64, 0,0,128' })
    expect({ width, height, warnings }).toEqual({ width: 192, height: 192, warnings: [] })
    const [canvas, sides] = pictures
    expect(start).toEqual({ mode: 'outpaint', image: canvas.hash, mask: sides.hash, strength: 0.8 })
    const original = await decodePicture(readFileSync(initImage), 'original')
    const placed = await decodePicture(canvas.bytes, 'canvas')
    expect([placed.width, placed.height]).toEqual([192, 192])
    const row = 3 * (20 * 192 + 64)
    expect(placed.data.subarray(row, row + 3 * 128)).toEqual(original.data.subarray(3 * 20 * 128, 3 * 21 * 128))
    const white = await decodeMask(sides.bytes, 'mask')
    expect(white.data.filter((value) => value === 0).length).toBe(128 * 64)
    expect(new Set(white.data)).toEqual(new Set([0, 255]))
  })
})

describe('refused', () => {
  it.each<[StartOptions, string]>([
    [{ strength: '0.5' }, '--strength needs --init-image, which is missing'],
    [{ mask: 'm.png' }, '--mask needs --init-image, which is missing'],
    [{ outpaint: '1,1,1,1' }, '--outpaint needs --init-image, which is missing'],
    [{ fullRes: true }, '--full-res needs --mask, which is missing'],
    [{ initImage: 'a', fullRes: '8' }, '--full-res needs --mask, which is missing'],
    [{ initImage: 'a', outpaint: '1,1,1,1', mask: 'm' }, '--outpaint makes its own mask; leave out --mask'],
    [
      { initImage: 'a', outpaint: '1,1,1,1', width: '64' },
      '--outpaint makes its own size; leave out --width and --height',
    ],
    [
      { initImage: 'a', outpaint: '1,1,1,1', height: '64' },
      '--outpaint makes its own size; leave out --width and --height',
    ],
    [
      { initImage: 'a', outpaint: '1,1,1,1', fullRes: true },
      '--full-res is for a --mask and cannot go with --outpaint',
    ],
    [{ initImage: 'a', strength: '0' }, '--strength must be a number above 0 and up to 1, got "0"'],
    [{ initImage: 'a', strength: '1.01' }, '--strength must be a number above 0 and up to 1, got "1.01"'],
    [{ initImage: 'a', outpaint: '1,2,3' }, '--outpaint must be four numbers LEFT,TOP,RIGHT,BOTTOM, got "1,2,3"'],
    [
      { initImage: 'a', outpaint: '1,2,3,4,5' },
      '--outpaint must be four numbers LEFT,TOP,RIGHT,BOTTOM, got "1,2,3,4,5"',
    ],
    [{ initImage: 'a', outpaint: '0,0,0,0' }, '--outpaint must grow a side by at least one pixel, got "0,0,0,0"'],
    [{ initImage: 'a', outpaint: '8,-8,0,0' }, '--outpaint: each side must be a whole number from 0 to 4096, got "-8"'],
    [{ initImage: 'a', mask: 'm', fullRes: '-1' }, '--full-res must be a whole number from 0 to 4096, got "-1"'],
    [{ initImage: 'a', width: '4' }, '--width must be a whole number from 8 to 4096, got "4"'],
  ])('%j', async (options, message) => {
    await expect(resolveStart(options)).rejects.toThrow(expect.objectContaining({ code: 'bad_argument', message }))
  })

  it('a result with a side that is too long', async () => {
    await saveScene(folder, 'long.png', 6000, 40)
    const long = path.join(folder, 'long.png')
    const refusal = (message: string) => expect.objectContaining({ code: 'bad_argument', message })
    await expect(resolveStart({ initImage: long })).rejects.toThrow(
      refusal(
        '--init-image: 6000×40 would become 6016×64, and a side has up to 4096 pixels; give --width and --height',
      ),
    )
    await expect(resolveStart({ initImage: long, outpaint: '0,0,0,24' })).rejects.toThrow(
      refusal('--init-image: 6000×40 would become 6016×64, and a side has up to 4096 pixels; crop it first'),
    )
    expect(await resolveStart({ initImage: long, width: '640', height: '64' })).toMatchObject({ width: 640 })
  })

  const missing = '/no/such/picture.png'
  it('pictures that are not there, cut short, or nothing to paint in', async () => {
    const refusal = (message: RegExp) =>
      expect.objectContaining({ code: 'bad_image', message: expect.stringMatching(message) as string })
    await expect(resolveStart({ initImage: missing })).rejects.toThrow(
      refusal(/^--init-image: cannot read \/no\/such\/picture.png: there is no such file$/),
    )
    await expect(resolveStart({ initImage, mask: folder })).rejects.toThrow(
      refusal(/^--mask: cannot read .*it is a folder$/),
    )
    await expect(resolveStart({ initImage: '' })).rejects.toThrow(refusal(/^--init-image: cannot read "": /))
    await saveMask(folder, 'm.png', [128, 64], [0, 0, 0, 0])
    await expect(resolveStart({ initImage, mask })).rejects.toThrow(refusal(/^--mask: no pixel of it is white/))
    truncateSync(initImage, 60)
    await expect(resolveStart({ initImage })).rejects.toThrow(
      refusal(/^--init-image: the picture is cut off or damaged$/),
    )
  })
})
