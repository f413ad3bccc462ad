// Pictures, masks and combinations that the command must refuse; each time one line, and nothing is left. Most run in
// this process, since they are told before an engine is begun; some through the real command.
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import sharp from 'sharp'
import { PassThrough } from 'node:stream'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { runCli } from '../../src/cli/program.ts'
import { resolveConfig } from '../../src/config.ts'
import { saveScene } from '../support/picture-files.ts'
import { makePlace, refusal, removePlace, type Place } from '../support/sepia-command.ts'

let place: Place
beforeAll(async () => {
  place = makePlace()
  const { folder } = place
  const at = (name: string): string => path.join(folder, name)
  await saveScene(folder, 'a.png', 64, 64)
  const blank = (width: number, height: number) => sharp({ create: { width, height, channels: 3, background: 'red' } })
  const jpeg = await blank(64, 64).jpeg().toBuffer()
  writeFileSync(at('cut.jpg'), jpeg.subarray(0, jpeg.length - 40))
  writeFileSync(at('text.png'), 'no picture at all')
  writeFileSync(at('empty.png'), '')
  writeFileSync(at('bomb.png'), await blank(14_000, 1300).png().toBuffer())
  writeFileSync(at('gif.png'), await blank(8, 8).gif().toBuffer())
  writeFileSync(at('cmyk.jpg'), await blank(8, 8).toColourspace('cmyk').jpeg().toBuffer())
  mkdirSync(at('folder.png'))
  writeFileSync(at('folder.png/inside'), '')
})
afterAll(() => removePlace(place))

/** Run a command line that must be refused before anything is begun: its exit code and its error object. */
async function refused(argv: readonly string[]): Promise<{ exit: number; code: string; message: string }> {
  const { cache, folder } = place
  const before = readdirSync(folder, { recursive: true })
  const [stdout, stderr] = [new PassThrough(), new PassThrough()]
  const terminal = { stdout, stderr, signal: new AbortController().signal }
  const named = argv.map((argument) =>
    /^[\w.]+\.(png|jpg|gif)$/.test(argument) ? path.join(folder, argument) : argument,
  )
  const exit = await runCli([...named, '--json'], terminal, () => resolveConfig({ SEPIA_CACHE: cache }))
  expect(stderr.read()).toBeNull()
  expect(readdirSync(folder, { recursive: true })).toEqual(before)
  expect(existsSync(cache)).toBe(false)
  const { error } = JSON.parse(String(stdout.read())) as { error: { code: string; message: string } }
  return { exit, ...error }
}

const tinyModel = path.resolve(import.meta.dirname, '../golden/models/tiny-a')
const generate = ['generate', 'a red apple', '--seed', '1']
const kinds: readonly (readonly [string, RegExp])[] = [
  ['absent.png', /cannot read \/.*absent\.png: there is no such file$/],
  ['folder.png', /cannot read \/.*folder\.png: it is a folder$/],
  ['', /cannot read "": /],
  ['text.png', /the picture is no JPEG, PNG or WebP picture$/],
  ['empty.png', /the picture is no JPEG, PNG or WebP picture$/],
  ['gif.png', /the picture is no JPEG, PNG or WebP picture$/],
  ['cut.jpg', /the picture is cut off or damaged$/],
  ['bomb.png', /the picture has 14000×1300 pixels; a picture may have as many as 4096×4096$/],
  ['cmyk.jpg', /the picture is CMYK, made for printing; convert it to RGB$/],
]

describe.each(kinds)('the picture "%s"', (name, reason) => {
  it.each([
    ['--init-image', ['--init-image', name]],
    ['--mask', ['--init-image', 'a.png', '--mask', name]],
  ])('%s', async (option, options) => {
    const { code, exit, message } = await refused([...generate, ...options])
    expect({ code, exit }).toEqual({ code: 'bad_image', exit: 2 })
    expect(message).toMatch(reason)
    expect(message).toMatch(new RegExp(`^${option}: `))
  })
})

describe('what cannot be', () => {
  const start = ['--init-image', 'a.png']
  it.each<[string[], string]>([
    [[...start, '--full-res', '16'], '--full-res needs --mask, which is missing'],
    [
      [...start, '--outpaint', '8,8,8,8', '--width', '64'],
      '--outpaint makes its own size; leave out --width and --height',
    ],
    [[...start, '--outpaint=-8,0,0,0'], '--outpaint: each side must be a whole number from 0 to 4096, got "-8"'],
    [[...start, '--strength', '0'], '--strength must be a number above 0 and up to 1, got "0"'],
    [[...start, '--num', '17'], '--num must be a whole number from 1 to 16, got "17"'],
    [['--seed', '1,2,3', '--num', '2'], '--num is 2 and --seed lists 3; leave out --num'],
    [['--seed', '1,,3'], '--seed must be a whole number from 0 to 4294967295, got ""'],
    [['--seed', `${'1,'.repeat(16)}1`], '--seed must list at most 16 seeds, got 17'],
    [['--style', 'Baroque'], '--style must be one of the 78 that "sepia styles" lists, got "Baroque"'],
    [['--high-noise-frac', '0.5'], '--high-noise-frac needs a refiner: give --refiner or set SEPIA_REFINER'],
    [
      ['--no-refiner', '--high-noise-frac', '1'],
      '--high-noise-frac needs a refiner: give --refiner or set SEPIA_REFINER',
    ],
    [['--refiner', '.', '--high-noise-frac', '1.5'], '--high-noise-frac must be a number from 0 to 1, got "1.5"'],
    [['--grid', 'sheet.webp'], '--grid must end in .png, .jpg or .jpeg, got "sheet.webp"'],
  ])('%j', async (options, message) => {
    const error = await refused(['generate', 'a red apple', ...options])
    expect(error).toEqual({ exit: 2, code: 'bad_argument', message })
  })

  it('one file for a picture and the sheet of all', async () => {
    const sheet = path.join(place.folder, 'b.png')
    const { exit, message } = await refused([...generate, '--grid', 'b.png', '-o', `${place.folder}/./b.png`])
    expect({ exit, message }).toEqual({
      exit: 2,
      message: `--grid must be another file than the pictures of --output, got "${sheet}"`,
    })
  })

  it('a refiner that is not there, and a sheet in a folder that is not there', async () => {
    const refiner = await refused([...generate, '--refiner', '/no/refiner'])
    expect(refiner).toEqual({
      exit: 1,
      code: 'model_not_found',
      message: '--refiner: there is no file or folder /no/refiner',
    })
    const sheet = await refused([...generate, '--grid', '/no/sheet.png', '-o', place.folder])
    expect(sheet).toEqual({ exit: 1, code: 'output_unwritable', message: '--grid: the folder /no does not exist' })
  })
})

describe('through the real command', () => {
  it('a bomb', async () => {
    const { code, message } = await refusal(place, [...generate, '--init-image', 'bomb.png'])
    expect(code).toBe(2)
    expect(message).toMatch(/^--init-image: the picture has 14000×1300 pixels/)
  })

  it('less than one step, which only the model can tell', async () => {
    const options = ['-m', tinyModel, '--init-image', 'a.png', '--steps', '4', '--strength', '0.2']
    const { code, message } = await refusal(place, [...generate, ...options])
    expect(code).toBe(2)
    expect(message).toMatch(/^strength: 0\.2 of 4 steps is less than one step/)
  })

  it('a base model as a refiner', async () => {
    const { code, message } = await refusal(place, [...generate, '-m', tinyModel, '--refiner', tinyModel])
    expect(code).toBe(1)
    expect(message).toContain(tinyModel)
  })
})
