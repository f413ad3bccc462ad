// Every way to begin a picture, through the real command with a tiny model.
import { copyFileSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { stylePresets } from '#diffusion/style-presets.ts'
import { readPngText } from '#image/codec.ts'
import { rgbOf, saveMask, saveScene } from '../support/picture-files.ts'
import {
  leftovers,
  makePlace,
  removePlace,
  sepia,
  startSepia,
  type Outcome,
  type Place,
} from '../support/sepia-command.ts'
import { timeUntil } from '../worker/fixture-task.ts'

const golden = path.resolve(import.meta.dirname, '../golden')
const tinyModel = path.join(golden, 'models/tiny-a')
const tinyRefiner = path.join(golden, 'mode-models/tiny-refiner')

let place: Place
let at: (name: string) => string
beforeEach(async () => {
  place = makePlace()
  at = (name) => path.join(place.folder, name)
  await saveScene(place.folder, 'a.png', 64, 64)
})
afterEach(() => removePlace(place))

const generate = (...options: string[]): Promise<Outcome> =>
  sepia(place, ['generate', 'a red apple', '-m', tinyModel, '--steps', '4', '--seed', '1', ...options])

/** Make a picture of the given pixels' size, and check that all went well and nothing else is left. */
async function made(...options: string[]): Promise<Buffer> {
  const outcome = await generate('-o', 'b.png', ...options)
  expect(outcome).toMatchObject({ code: 0, stderr: '' })
  expect(leftovers(place)).toEqual([])
  const { data } = await rgbOf(at('b.png'))
  return data
}

describe('image to image', () => {
  it('has the size of its picture, comes again, and is another with another strength', async () => {
    const little = await made('--init-image', 'a.png', '--strength', '0.25')
    expect(little.length).toBe(3 * 64 * 64)
    expect((await made('--init-image', 'a.png', '--strength', '0.25')).equals(little)).toBe(true)
    expect((await made('--init-image', 'a.png', '--strength', '0.5')).equals(little)).toBe(false)
  })

  it('takes a picture by its content, whatever its name, and one of another size with its warning', async () => {
    await saveScene(place.folder, 'c.webp', 100, 80)
    copyFileSync(at('c.webp'), at('c.jpg'))
    const { code, stdout } = await generate('--init-image', 'c.jpg', '-o', 'b.png', '--json')
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({
      images: [{ width: 128, height: 64 }],
      warnings: ['the picture of 100×80 was scaled to 128×64; see --width and --height'],
    })
    expect(await rgbOf(at('b.png'))).toMatchObject({ width: 128, height: 64 })
  })

  it('reads a picture out of a pipe', async () => {
    const options = ['-m', tinyModel, '--steps', '2', '--seed', '1', '-o', 'b.png', '--init-image', '/dev/stdin']
    // The command takes the place of the shell, whose standard input is a pipe.
    const wrapper = ['sh', '-c', 'cat a.png | "$0" "$@"']
    const outcome = await sepia(place, ['generate', 'x', ...options], { wrapper })
    expect(outcome).toMatchObject({ code: 0, stderr: '' })
    expect((await rgbOf(at('b.png'))).width).toBe(64)
  })
})

describe('inpainting', () => {
  const seam = 8
  const hole = [20, 16, 44, 40] as const
  const isFar = (i: number): boolean => {
    const [x, y] = [Math.floor(i / 3) % 64, Math.floor(i / 3 / 64)]
    return x < hole[0] - seam || x >= hole[2] + seam || y < hole[1] - seam || y >= hole[3] + seam
  }

  it.each([[[]], [['--full-res']], [['--full-res', '0']]])('keeps the rest to the bit: %j', async (options) => {
    await saveMask(place.folder, 'm.png', [64, 64], hole)
    const { data: original } = await rgbOf(at('a.png'))
    const painted = await made('--init-image', 'a.png', '--mask', 'm.png', '--strength', '1', ...options)
    const changed = Array.from(painted.keys()).filter((i) => painted[i] !== original[i])
    expect(painted.length).toBe(original.length)
    expect(changed.filter(isFar)).toEqual([])
    expect(changed.length).toBeGreaterThan(500)
  })
})

describe('outpainting', () => {
  it.each([
    ['64,0,0,0', 128, 64, 64, 0],
    ['0,64,0,0', 64, 128, 0, 64],
    ['0,0,64,0', 128, 64, 0, 0],
    ['0,0,0,64', 64, 128, 0, 0],
    ['32,32,32,32', 128, 128, 32, 32],
  ])('%s: a picture of %i × %i with the original at %i, %i', async (sides, width, height, left, top) => {
    const { data: original } = await rgbOf(at('a.png'))
    const painted = await made('--init-image', 'a.png', '--outpaint', sides)
    expect(painted.length).toBe(3 * width * height)
    // The middle of the original is further from every border than overlap and seam together.
    for (let y = 24; y < 40; y++) {
      const row = painted.subarray(3 * ((y + top) * width + left + 24), 3 * ((y + top) * width + left + 40))
      expect(row.equals(original.subarray(3 * (y * 64 + 24), 3 * (y * 64 + 40)))).toBe(true)
    }
  })
})

it.each(['SIGINT', 'SIGTERM'] as const)('%s in the middle of an outpainting leaves nothing', async (signal) => {
  const model = path.resolve(golden, '../../models/pocket')
  const options = ['--init-image', 'a.png', '--outpaint', '64,64,64,64', '--steps', '200', '--verbose', '-o', 'b.png']
  const started = startSepia(place, ['generate', 'a red apple', '-m', model, ...options])
  await timeUntil(() => started.stderr().includes('step 1/'), 60_000)
  started.child.kill(signal)
  const { code } = await started.ended
  expect(code).toBe({ SIGINT: 130, SIGTERM: 143 }[signal])
  expect(readdirSync(place.folder)).toEqual(['a.png'])
  expect(leftovers(place, started.child.pid)).toEqual([])
})

describe('a refiner', () => {
  it('does the last steps, is told in the PNG, and can be left out again', async () => {
    const size = ['--width', '64', '--height', '64', '--sampler', 'K_EULER']
    const alone = await made(...size)
    const refined = await made(...size, '--refiner', tinyRefiner, '--high-noise-frac', '0.5')
    expect(refined.equals(alone)).toBe(false)
    expect(Object.keys(readPngText(readFileSync(at('b.png'))))).toContain('refiner_hash')
    expect((await made(...size, '--refiner', tinyRefiner, '--high-noise-frac', '1')).equals(alone)).toBe(true)
    expect((await made(...size, '--no-refiner')).equals(alone)).toBe(true)
  })
})

describe('styles', () => {
  it('change the prompt and the negative prompt, as the PNG tells', async () => {
    const { template, negative } = stylePresets['Pop Art']
    await made('--style', 'pop art', '-n', 'snow', '--width', '64', '--height', '64')
    const text = readPngText(readFileSync(at('b.png')))
    expect(Object.values(text)).toContain(template.replace('{prompt}', 'a red apple'))
    expect(Object.values(text)).toContain(`${negative}, snow`)
  })

  it('are listed', async () => {
    const { code, stdout } = await sepia(place, ['styles'])
    expect(code).toBe(0)
    expect(stdout.split('\n').filter((line) => /^\S/.test(line))).toEqual(Object.keys(stylePresets))
    const json = await sepia(place, ['styles', '--json'])
    expect(JSON.parse(json.stdout)).toEqual(stylePresets)
  })
})

describe('several pictures', () => {
  it('have the seeds of a list, and a sheet that shows them all', async () => {
    const argv = ['generate', 'a red apple', '-m', tinyModel, '--steps', '2', '--width', '64', '--height', '64']
    const outcome = await sepia(place, [...argv, '--seed', '5,1,5', '--grid', 'sheet.png', '--json'])
    expect(outcome).toMatchObject({ code: 0, stderr: '' })
    const { grid, images } = JSON.parse(outcome.stdout) as { grid: string; images: { path: string; seed: number }[] }
    expect(images.map(({ seed }) => seed)).toEqual([5, 1, 5])
    expect(readdirSync(place.folder).sort()).toEqual([
      'a.png',
      'sepia-1.png',
      'sepia-5-2.png',
      'sepia-5.png',
      'sheet.png',
    ])
    expect(grid).toBe(at('sheet.png'))
    const sheet = await rgbOf(grid)
    expect([sheet.width, sheet.height]).toEqual([2 * 72 + 8, 2 * 72 + 8])
    const second = await rgbOf(images[1].path)
    for (const y of [0, 63]) {
      const from = 3 * ((8 + y) * sheet.width + 80)
      expect(sheet.data.subarray(from, from + 192).equals(second.data.subarray(192 * y, 192 * (y + 1)))).toBe(true)
    }
  })

  it('never take the place of the sheet', async () => {
    const size = ['--width', '64', '--height', '64']
    expect((await generate(...size, '--grid', 'sepia-1.png')).code).toBe(0)
    expect(readdirSync(place.folder).sort()).toEqual(['a.png', 'sepia-1-2.png', 'sepia-1.png'])
    expect((await rgbOf(at('sepia-1.png'))).width).toBe(80)
  })
})
