import { createHash } from 'node:crypto'
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { crc32, deflateRawSync } from 'node:zlib'
import { beforeEach, describe, expect, it } from 'vitest'
import { manifestName } from '#engine/backends/openvino-places.ts'
import { installOpenvino } from '../../src/cli/backend-install.ts'
import { openvinoFolders } from '../../src/cli/backend-places.ts'
import { openvinoWheel, pipArguments } from '../../src/cli/backend-wheels.ts'
import { runCli } from '../../src/cli/program.ts'
import { readWheel } from '../../src/cli/wheel-archive.ts'
import { resolveConfig } from '../../src/config.ts'
import { temporaryFolder } from '../support/temporary-folder.ts'

let folder: string
beforeEach(async () => {
  folder = await temporaryFolder('backend')
})

/** A zip archive as wheels are: each entry deflated, then the directory. */
function zip(entries: Readonly<Record<string, string>>): Buffer {
  const parts: Buffer[] = []
  const directory: Buffer[] = []
  let offset = 0
  for (const [name, text] of Object.entries(entries)) {
    const bytes = Buffer.from(text)
    const packed = deflateRawSync(bytes)
    const local = Buffer.alloc(30)
    local.writeUInt32LE(0x04034b50, 0)
    local.writeUInt16LE(name.length, 26)
    const central = Buffer.alloc(46)
    central.writeUInt32LE(0x02014b50, 0)
    central.writeUInt16LE(8, 10)
    central.writeUInt32LE(crc32(bytes), 16)
    central.writeUInt32LE(packed.length, 20)
    central.writeUInt32LE(bytes.length, 24)
    central.writeUInt16LE(name.length, 28)
    central.writeUInt32LE(offset, 42)
    parts.push(local, Buffer.from(name), packed)
    directory.push(central, Buffer.from(name))
    offset += 30 + name.length + packed.length
  }
  const end = Buffer.alloc(22)
  end.writeUInt32LE(0x06054b50, 0)
  end.writeUInt16LE(Object.keys(entries).length, 10)
  end.writeUInt32LE(offset, 16)
  return Buffer.concat([...parts, ...directory, end])
}

const entries = {
  'openvino/__init__.py': 'python',
  'openvino/libs/libopenvino_c.so.2641': 'the C interface',
  'openvino/libs/libopenvino.so.2641': 'the core',
  'openvino/libs/libopenvino_intel_cpu_plugin.so': 'the CPU',
  'openvino/libs/libopenvino_tensorflow_frontend.so.2641': 'not needed',
  'openvino/libs/libtbb.so.12': 'threads',
  'openvino-2026.4.1.dist-info/licenses/LICENSE': 'Apache',
}

/** A wheel in the folder, and what pip would be told of it. */
function wheelOf(content: Buffer): { file: string; wheel: ReturnType<typeof openvinoWheel> } {
  const file = path.join(folder, 'openvino.whl')
  writeFileSync(file, content)
  return {
    file,
    wheel: { file: 'openvino.whl', tag: 'any', sha256: createHash('sha256').update(content).digest('hex') },
  }
}

const signal = new AbortController().signal
const target = (): string => path.join(folder, 'data', 'openvino')

describe('an installation', () => {
  it('unpacks what is needed, in one step, over what was there', async () => {
    mkdirSync(path.join(folder, 'data', 'openvino.partial-old'), { recursive: true })
    mkdirSync(target())
    writeFileSync(path.join(target(), 'older'), '')
    const { file, wheel } = wheelOf(zip(entries))
    const { files } = await installOpenvino({ wheel, file, target: target(), signal })
    const unpacked = ['libopenvino.so.2641', 'libopenvino_c.so.2641', 'libopenvino_intel_cpu_plugin.so', 'libtbb.so.12']
    expect(readdirSync(target()).sort()).toEqual([...unpacked, 'licenses', manifestName])
    expect(files.map(({ name }) => name).sort()).toEqual([...unpacked, 'licenses/LICENSE'])
    expect(readFileSync(path.join(target(), 'libtbb.so.12'), 'utf8')).toBe('threads')
    expect(readdirSync(path.join(folder, 'data'))).toEqual(['openvino'])
  })

  it.each<[string, (content: Buffer) => Buffer, RegExp]>([
    [
      'another wheel',
      (content) => Buffer.concat([content, Buffer.from('x')]),
      /has the SHA-256 [0-9a-f]{64}, openvino.whl has/,
    ],
    ['no wheel at all', () => Buffer.from('hello'), /has the SHA-256/],
  ])('refuses %s, and leaves what was there', async (_name, change, words) => {
    const { wheel } = wheelOf(zip(entries))
    const { file } = wheelOf(change(zip(entries)))
    mkdirSync(target(), { recursive: true })
    writeFileSync(path.join(target(), 'older'), '')
    const installing = installOpenvino({ wheel, file, target: target(), signal })
    await expect(installing).rejects.toMatchObject({ code: 'bad_file', message: expect.stringMatching(words) })
    expect(readdirSync(target())).toEqual(['older'])
    expect(readdirSync(path.join(folder, 'data'))).toEqual(['openvino'])
  })

  it('takes the first pip that there is, and tells what to fetch where none is or it fails', async () => {
    const { file, wheel } = wheelOf(zip(entries))
    const pip = path.join(folder, 'pip')
    const script = (body: string): void => {
      writeFileSync(pip, `#!/bin/sh\n${body}\n`)
      chmodSync(pip, 0o755)
    }
    const install = (pips: readonly (readonly [string, ...string[]])[]) =>
      installOpenvino({ wheel, file: null, target: target(), signal, pips })
    script(`[ "$1" = --version ] && exit 0; while [ "$1" != --dest ]; do shift; done; cp ${file} "$2/openvino.whl"`)
    await install([['sepia-no-such-program'], [pip]])
    expect(existsSync(path.join(target(), manifestName))).toBe(true)
    const byHand = new RegExp(`fetch openvino\\.whl \\(SHA-256 ${wheel.sha256}\\).*--wheel openvino\\.whl`)
    script('[ "$1" = --version ] && exit 0; echo no network >&2; exit 1')
    await expect(install([[pip]])).rejects.toMatchObject({
      code: 'fetch_failed',
      message: expect.stringMatching(/could not fetch it: no network; fetch openvino\.whl/),
    })
    await expect(install([['sepia-no-such-program']])).rejects.toMatchObject({
      code: 'fetch_failed',
      message: expect.stringMatching(byHand),
    })
  })

  it('is known for four platforms', () => {
    for (const [platform, arch] of [
      ['linux', 'x64'],
      ['linux', 'arm64'],
      ['darwin', 'arm64'],
      ['win32', 'x64'],
    ] as const)
      expect(openvinoWheel(platform, arch).sha256).toMatch(/^[0-9a-f]{64}$/)
    expect(() => openvinoWheel('sunos', 'x64')).toThrow(/^openvino: there is no wheel for sunos x64/)
    expect(pipArguments(openvinoWheel('linux', 'x64'), '/to').at(-1)).toBe('openvino==2026.4.1')
  })
})

describe('a wheel', () => {
  it.each(['../evil', '/evil', 'a//b', 'a/../b', 'a\\b'])('with the name %s is refused', (name) => {
    expect(() => readWheel(zip({ [name]: 'x' }), 'w.whl')).toThrow('has an entry with the name')
  })

  it('that is damaged is refused wherever that is', () => {
    const whole = zip(entries)
    const read = (bytes: Buffer): number => readWheel(bytes, 'w.whl').reduce((sum, file) => sum + file.read().length, 0)
    expect(read(whole)).toBe(Object.values(entries).join('').length)
    for (let length = 0; length < whole.length; length += 7)
      expect(() => read(whole.subarray(0, length))).toThrow(/^file w\.whl /)
    const damaged = Buffer.from(whole)
    damaged[30 + 'openvino/__init__.py'.length + 2] ^= 0xff
    expect(() => read(damaged)).toThrow(/^file w\.whl is damaged: openvino\/__init__\.py/)
  })
})

describe('sepia backend', () => {
  const run = async (...argv: string[]) => {
    let [stdout, stderr] = ['', '']
    const terminal = {
      stdout: { write: (text: string) => void (stdout += text) },
      stderr: { write: (text: string) => void (stderr += text) },
      signal,
    } as unknown as Parameters<typeof runCli>[1]
    const code = await runCli(['backend', ...argv], terminal, () =>
      resolveConfig({ SEPIA_DATA: path.join(folder, 'data') }),
    )
    return { code, stdout, stderr }
  }

  it('lists and removes what was unpacked, and only that', async () => {
    expect(await run('remove', 'openvino')).toMatchObject({ code: 1, stderr: expect.stringContaining('nothing of it') })
    expect(await run('remove', 'tensorrt')).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('one of openvino'),
    })
    const { file, wheel } = wheelOf(zip(entries))
    await installOpenvino({ wheel, file, target: target(), signal })
    const { stdout } = await run('list', '--json')
    expect(JSON.parse(stdout)).toEqual({
      backends: [
        { name: 'onnxruntime', version: null, path: null },
        { name: 'openvino', version: '2026.4.1', path: path.join(target(), 'libopenvino_c.so.2641') },
      ],
    })
    expect(await run('remove', 'openvino')).toMatchObject({ code: 0 })
    expect(existsSync(target())).toBe(false)
  })

  it('refuses a file that is not the pinned wheel', async () => {
    const { file } = wheelOf(zip(entries))
    const { code, stderr } = await run('install', 'openvino', '--wheel', file)
    expect(code).toBe(1)
    expect(stderr).toMatch(/sepia: file \S+ has the SHA-256 /)
  })
})

it('SEPIA_OPENVINO is the only place that counts where it is set', () => {
  const config = (folder: string | null) => ({
    dataDir: '/data',
    openvino: { folder, home: '/home/me', virtualEnv: '/env' },
  })
  expect(openvinoFolders(config(null)).slice(0, 2)).toEqual(['/data/openvino', '/env/Lib/site-packages/openvino/libs'])
  expect(() => openvinoFolders(config(path.join(folder, 'none')))).toThrow(/^SEPIA_OPENVINO: there is no folder/)
  expect(() => openvinoFolders(config(folder))).toThrow(/^SEPIA_OPENVINO must be a folder with OpenVINO's C library/)
  writeFileSync(path.join(folder, 'libopenvino_c.so.2641'), '')
  expect(openvinoFolders(config(folder))).toEqual([folder])
})
