// Places that cannot be written, disks that are full, and caches that are shared or damaged, through the real command.
import { mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeEach, describe, expect, it } from 'vitest'
import { jsonRefusal, leftovers, makePlace, refusal, removePlace, sepia, type Place } from '../support/sepia-command.ts'
import { tinyModels } from '../support/tiny-b-single-file.ts'

let place: Place
beforeEach(() => {
  place = makePlace()
  return () => removePlace(place)
})
const at = (name: string): string => join(place.folder, name)

/** An order for a picture of tiny-b, whose fp16 weights have to be prepared. */
const order = (output: string, ...more: readonly string[]): string[] => {
  const size = ['--width', '64', '--height', '64']
  const model = join(tinyModels, 'tiny-b')
  return ['generate', 'a red apple', '-m', model, '--seed', '1', '--steps', '1', ...size, '-o', output, ...more]
}

/** Runs a command that may not write files of more than so many KiB: the disk is full in the middle of one. */
const limited = (kibibytes: number): readonly string[] => ['bash', '-c', `ulimit -f ${kibibytes}; exec "$@"`, 'bash']

describe('an output that cannot be written is told before anything is begun', () => {
  const unwritable: [string, string, RegExp][] = [
    ['in a folder that is not there', 'no/a.png', /^--output: the folder .*\/no does not exist$/],
    ['a folder that is not there', 'no/', /^--output: the folder .*\/no does not exist$/],
    ['below a file', 'file/a.png', /^--output: cannot write .*\/file \(ENOTDIR\)$/],
    ['of the kernel', '/proc/a.png', /^--output: cannot write \/proc \(E[A-Z]+\)$/],
    ['with too long a name', `${'n'.repeat(255)}.png`, /^--output: cannot write .* \(ENAMETOOLONG\)$/],
  ]
  it.each(unwritable)('%s', async (_, output, message) => {
    writeFileSync(at('file'), '')
    const refused = await refusal(place, order(output))
    expect(refused).toEqual({ code: 1, message: expect.stringMatching(message) as string })
    expect(readdirSync(join(place.folder, '..'))).not.toContain('cache')
  })

  it('a folder in the way of one of several pictures', async () => {
    mkdirSync(at('a-2.png'))
    expect(await jsonRefusal(place, order('a.png', '--num', '3'))).toEqual({
      code: 'output_unwritable',
      message: `--output: ${at('a-2.png')} is not a regular file`,
    })
  })
})

describe('a cache that cannot be written', () => {
  it.each<[string, (cache: string) => void, RegExp]>([
    [
      'below a file',
      (cache) => writeFileSync(cache, ''),
      /^cache: cannot write in .*\/cache\/scratch \(ENOTDIR\); choose/,
    ],
    [
      'whose scratch is a file',
      (cache) => [mkdirSync(cache), writeFileSync(join(cache, 'scratch'), '')],
      /^cache: cannot write in .*\/cache\/scratch \((EEXIST|ENOTDIR)\); choose another folder$/,
    ],
    [
      'whose weights are a file',
      (cache) => [mkdirSync(cache), writeFileSync(join(cache, 'weights'), '')],
      /^cache: cannot write in .*\/cache\/weights \((EEXIST|ENOTDIR)\); choose another folder$/,
    ],
  ])('%s', async (_, spoil, message) => {
    spoil(place.cache)
    const before = readdirSync(join(place.folder, '..'))
    const { code, stdout, stderr } = await sepia(place, order('a.png'))
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toMatch(/^sepia: [^\n]+\n$/)
    expect(stderr.slice('sepia: '.length, -1)).toMatch(message)
    expect(readdirSync(place.folder)).toEqual([])
    expect(readdirSync(place.temporary)).toEqual([])
    expect(readdirSync(join(place.folder, '..'))).toEqual(before)
  })

  it('of the kernel', async () => {
    expect(await jsonRefusal(place, order('a.png', '--cache', '/proc/sepia'))).toEqual({
      code: 'cache_unwritable',
      message: expect.stringMatching(/^cache: cannot write in \/proc\/sepia\/scratch \(E[A-Z]+\); choose/) as string,
    })
  })
})

describe('a full disk', () => {
  it('while weights are prepared: one line, no half file, and the next run is as the first', async () => {
    const { code, message } = await refusal(place, order('a.png'), { wrapper: limited(4096) })
    expect(code).toBe(1)
    expect(message).toMatch(/^cache: no space left in .*\/cache\/weights \(EFBIG\)$/)
    expect(await jsonRefusal(place, order('a.png'), { wrapper: limited(4096) })).toMatchObject({ code: 'disk_full' })
    expect(await sepia(place, order('a.png'))).toMatchObject({ code: 0, stderr: '' })
    expect(leftovers(place)).toEqual([])
  })

  it('while a picture is written', async () => {
    expect(await sepia(place, order('before.png'))).toMatchObject({ code: 0 })
    const wide = ['--width', '512', '--height', '512']
    const { code, message } = await refusal(place, order('a.png', ...wide), { wrapper: limited(64) })
    expect({ code, message }).toEqual({ code: 1, message: `--output: no space left for ${at('a.png')} (EFBIG)` })
  })
})

describe('a cache', () => {
  const picture = async (name: string): Promise<Buffer> => {
    expect(await sepia(place, order(name))).toMatchObject({ code: 0, stderr: '' })
    expect(leftovers(place)).toEqual([])
    return readFileSync(at(name))
  }

  it('that two processes fill at once serves both, and holds one file a component', async () => {
    const outcomes = await Promise.all([sepia(place, order('a.png')), sepia(place, order('b.png'))])
    expect(outcomes.map(({ code, stderr }) => ({ code, stderr }))).toEqual([
      { code: 0, stderr: '' },
      { code: 0, stderr: '' },
    ])
    expect(readFileSync(at('a.png')).equals(readFileSync(at('b.png')))).toBe(true)
    expect(leftovers(place)).toEqual([])
    expect(readdirSync(join(place.cache, 'weights'))).toHaveLength(4)
    const hashes = JSON.parse(readFileSync(join(place.cache, 'hashes.json'), 'utf8')) as object
    expect(Object.keys(hashes)).toHaveLength(4)
  })

  it('that is damaged is made anew', async () => {
    const good = await picture('a.png')
    const [first, second] = readdirSync(join(place.cache, 'weights'))
    truncateSync(join(place.cache, 'weights', first), 1000)
    writeFileSync(join(place.cache, 'weights', second), 'not a file of ours')
    writeFileSync(join(place.cache, 'hashes.json'), '{"half')
    expect((await picture('b.png')).equals(good)).toBe(true)
    expect(readdirSync(join(place.cache, 'weights'))).toHaveLength(4)
  })
})
