import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { planOutput, writePicture } from '../../src/cli/output-files.ts'

let folder: string
const at = (name: string): string => path.join(folder, name)

beforeEach(() => {
  folder = realpathSync(mkdtempSync(path.join(tmpdir(), 'sepia-test-')))
})
afterEach(() => rmSync(folder, { recursive: true }))

describe('the names of pictures', () => {
  it.each([
    ['a.png', 'png', 'a.png'],
    ['a.JPG', 'jpeg', 'a.JPG'],
    ['a.b.jpeg', 'jpeg', 'a.b.jpeg'],
  ])('%s is one file', (name, imageEncoding, file) => {
    const plan = planOutput(at(name), [5])
    expect(plan.imageEncoding).toBe(imageEncoding)
    expect(plan.pathOf(0)).toBe(at(file))
  })

  it('several pictures are numbered', () => {
    const plan = planOutput(at('a.b.png'), [5, 6, 7])
    expect([0, 1, 2].map(plan.pathOf)).toEqual([at('a.b-1.png'), at('a.b-2.png'), at('a.b-3.png')])
  })

  it.each(['', '/'])('a folder gets names made of the seeds%s', (slash) => {
    const plan = planOutput(folder + slash, [5, 4294967295])
    expect([0, 1].map(plan.pathOf)).toEqual([at('sepia-5.png'), at('sepia-4294967295.png')])
  })

  it('a name that we choose is a free one', () => {
    writeFileSync(at('sepia-5.png'), 'mine')
    writeFileSync(at('sepia-5-2.png'), 'mine')
    expect(planOutput(folder, [5]).pathOf(0)).toBe(at('sepia-5-3.png'))
  })

  it('a folder may look like a picture', () => {
    mkdirSync(at('set.png'))
    expect(planOutput(at('set.png'), [5]).pathOf(0)).toBe(at('set.png/sepia-5.png'))
  })

  it('looking leaves nothing behind', () => {
    planOutput(at('a.png'), [1, 2])
    planOutput(folder, [1])
    expect(readdirSync(folder)).toEqual([])
  })
})

describe('a target that cannot be written', () => {
  it.each(['a.webp', 'a', 'a.png.txt', '.png'])('%s: unknown extension', (name) =>
    expect(() => planOutput(at(name), [1])).toThrow(
      expect.objectContaining({
        code: 'bad_argument',
        message: `--output must end in .png, .jpg or .jpeg or be a folder, got "${at(name)}"`,
      }) as Error,
    ),
  )

  it.each(['missing/a.png', 'missing/'])('%s: no such folder', (name) =>
    expect(() => planOutput(at(name), [1])).toThrow(
      expect.objectContaining({
        code: 'output_unwritable',
        message: `--output: the folder ${at('missing')} does not exist`,
      }) as Error,
    ),
  )

  it('below a file', () => {
    writeFileSync(at('file'), '')
    for (const name of ['file/a.png', 'file/'])
      expect(() => planOutput(at(name), [1])).toThrow(
        expect.objectContaining({
          code: 'output_unwritable',
          message: expect.stringContaining('ENOTDIR') as string,
        }) as Error,
      )
  })

  it('a name that is too long, and a folder in the place of one of several', () => {
    expect(() => planOutput(at(`${'n'.repeat(255)}.png`), [1])).toThrow(/cannot write .* \(ENAMETOOLONG\)/)
    mkdirSync(at('a-2.png'))
    expect(() => planOutput(at('a.png'), [1, 2])).toThrow(`--output: ${at('a-2.png')} is not a regular file`)
  })

  it('a folder of the kernel', () =>
    expect(() => planOutput('/proc/a.png', [1])).toThrow(
      expect.objectContaining({
        code: 'output_unwritable',
        message: expect.stringMatching(/^--output: cannot write \/proc \(E[A-Z]+\)$/) as string,
      }) as Error,
    ))

  it('a link to a file of the kernel', () => {
    symlinkSync('/proc/version', at('a.png'))
    expect(() => planOutput(at('a.png'), [1])).toThrow(/^--output: cannot write \/.* \(E[A-Z]+\)$/)
  })

  it('no permission for the folder, when the system keeps us from it', () => {
    chmodSync(folder, 0o555)
    // The super-user may write all the same, and then so do we.
    let refusal: string | undefined
    try {
      mkdirSync(at('probe'))
    } catch (error) {
      refusal = (error as NodeJS.ErrnoException).code
    }
    let message: string | undefined
    try {
      planOutput(at('a.png'), [1])
    } catch (error) {
      ;({ message } = error as Error)
    }
    chmodSync(folder, 0o755)
    expect(message).toBe(refusal && `--output: cannot write ${folder} (${refusal})`)
  })

  it('nothing at all', () => expect(() => planOutput('', [1])).toThrow('--output must be a file or a folder, got ""'))
})

describe('writing', () => {
  it('replaces a file as a whole', () => {
    writeFileSync(at('a.png'), 'an old and longer picture')
    writePicture(planOutput(at('a.png'), [1]).pathOf(0), Buffer.from('new'))
    expect(readFileSync(at('a.png'), 'utf8')).toBe('new')
    expect(readdirSync(folder)).toEqual(['a.png'])
  })

  it('follows a link to its end', () => {
    mkdirSync(at('real'))
    writeFileSync(at('real/b.png'), 'old')
    symlinkSync(at('real/b.png'), at('a.png'))
    writePicture(planOutput(at('a.png'), [1]).pathOf(0), Buffer.from('new'))
    expect(readFileSync(at('real/b.png'), 'utf8')).toBe('new')
    expect(readdirSync(folder)).toEqual(['a.png', 'real'])
  })

  it('that fails leaves nothing behind', () => {
    mkdirSync(at('a.png'))
    expect(() => writePicture(at('a.png'), Buffer.from('new'))).toThrow(
      expect.objectContaining({ code: 'output_unwritable' }) as Error,
    )
    expect(readdirSync(folder)).toEqual(['a.png'])
  })

  it('on a full disk says so and leaves nothing behind', () => {
    // The size limit of the shell fails the same write as a full disk, in the middle of the file.
    const script = `
      import { writePicture } from ${JSON.stringify(new URL('../../src/cli/output-files.ts', import.meta.url).href)}
      try { writePicture(process.argv[1], Buffer.alloc(100_000)) } catch (error) { console.log(error.code, error.message) }`
    const { stdout } = spawnSync(
      'bash',
      ['-c', 'ulimit -f 8; exec "$@"', 'bash', process.execPath, '--input-type=module', '-e', script, at('a.png')],
      { encoding: 'utf8' },
    )
    expect(stdout).toBe(`disk_full --output: no space left for ${at('a.png')} (EFBIG)\n`)
    expect(readdirSync(folder)).toEqual([])
  })
})
