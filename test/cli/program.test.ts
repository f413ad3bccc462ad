import { mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import path from 'node:path'
import { PassThrough } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { runCli } from '../../src/cli/program.ts'
import { resolveConfig } from '../../src/config.ts'
import { fixtureEntry } from '../worker/fixture-task.ts'

let folder: string
let cache: string
const at = (name: string): string => path.join(folder, name)

beforeEach(() => {
  folder = realpathSync(mkdtempSync(path.join(tmpdir(), 'sepia-test-')))
  cache = mkdtempSync(path.join(tmpdir(), 'sepia-test-cache-'))
})
afterEach(() => {
  for (const made of [folder, cache]) rmSync(made, { recursive: true })
})

type Outcome = { readonly code: number; readonly stdout: string; readonly stderr: string }

/** Run the command line in this process, with the engine of test/worker whose prompt tells how it behaves. */
async function run(argv: readonly string[], { cancelAfterMs }: { cancelAfterMs?: number } = {}): Promise<Outcome> {
  const outputs = { stdout: '', stderr: '' }
  const stream = (name: 'stdout' | 'stderr'): PassThrough => {
    const made = new PassThrough()
    made.setEncoding('utf8').on('data', (text: string) => void (outputs[name] += text))
    return made
  }
  const signal = cancelAfterMs === undefined ? new AbortController().signal : AbortSignal.timeout(cancelAfterMs)
  const terminal = { stdout: stream('stdout'), stderr: stream('stderr'), signal, engineEntry: fixtureEntry }
  const code = await runCli(argv, terminal, () => resolveConfig({ SEPIA_CACHE: cache }))
  await sleep(5)
  return { code, ...outputs }
}

const generate = (prompt: string, ...options: string[]): Promise<Outcome> =>
  run(['generate', prompt, '-o', at('a.png'), ...options])

describe('sepia generate', () => {
  it('saves a picture and prints file, seed and time', async () => {
    const { code, stdout, stderr } = await generate('pictures', '--seed', '42')
    expect(stdout).toMatch(new RegExp(`^${at('a.png')} {2}seed 42 {2}\\d+\\.\\d\\d s\\n$`))
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect([...readFileSync(at('a.png'))]).toEqual([1, 1, 1])
  })

  it('numbers several pictures, with seeds that wrap round', async () => {
    const { stdout } = await generate('pictures', '--num', '3', '--seed', '4294967294')
    expect(readdirSync(folder)).toEqual(['a-1.png', 'a-2.png', 'a-3.png'])
    expect([...stdout.matchAll(/seed (\d+)/g)].map((match) => match[1])).toEqual(['4294967294', '4294967295', '0'])
  })

  it('prints one JSON object with --json', async () => {
    const { code, stdout, stderr } = await generate('pictures', '--json', '--seed', '1', '--width', '512')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(JSON.parse(stdout)).toEqual({
      images: [{ path: at('a.png'), seed: 1, width: 512, height: 1024 }],
      backend: 'onnxruntime',
      precision: 'fp32',
      modelHash: 'ab'.repeat(32),
      refinerHash: null,
      timings: {
        loadMs: 1,
        encodePromptMs: 1,
        encodeStartMs: 0,
        stepMs: [1, 1],
        decodeMs: 1,
        encodeImageMs: 1,
        totalMs: 6,
      },
      warnings: [],
    })
  })

  it('picks a new seed each time and names the picture after it', async () => {
    const seeds = new Set<string>()
    for (let count = 0; count < 2; count++) {
      const { stdout } = await run(['generate', 'pictures', '-o', folder, '--json'])
      const { images } = JSON.parse(stdout) as { images: [{ path: string; seed: number }] }
      expect(images[0].path).toBe(at(`sepia-${images[0].seed}.png`))
      seeds.add(String(images[0].seed))
    }
    expect(seeds.size).toBe(2)
  })

  it('keeps what the engine prints off stdout, and shows it with --verbose', async () => {
    const quiet = await generate('stdout')
    expect(quiet).toEqual({ code: 0, stdout: '', stderr: '' })
    const { stdout, stderr } = await generate('stdout', '--verbose')
    expect(stdout).toBe('')
    expect(stderr).toContain('encoding the prompt\n')
    expect(stderr).toContain('a native library says hello\n')
  })

  it('tells of a crash and leaves nothing behind', async () => {
    const { code, stdout, stderr } = await generate('words')
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toBe(
      'sepia: the engine process ended with exit code 3; its last words: the tensor was / not to be found\n',
    )
    expect(readdirSync(folder)).toEqual([])
    expect(readdirSync(path.join(cache, 'scratch'))).toEqual([])
  })

  it('ends within a second when it is cancelled', async () => {
    const startMs = performance.now()
    const outcome = await run(['generate', 'busy', '-o', at('a.png')], { cancelAfterMs: 1000 })
    expect(performance.now() - startMs).toBeLessThan(2000)
    expect(outcome).toEqual({ code: 130, stdout: '', stderr: 'sepia: cancelled\n' })
    expect(readdirSync(folder)).toEqual([])
  })
})

describe('a command line that is wrong', () => {
  const size = 'a whole number from 8 to 4096'
  it.each<[string[], string]>([
    [['--steps', '0'], '--steps must be a whole number from 1 to 200, got "0"'],
    [['--steps', '2.5'], '--steps must be a whole number from 1 to 200, got "2.5"'],
    [['--cfg', '0'], '--cfg must be a number above 0 and up to 50, got "0"'],
    [['--cfg', '-3'], '--cfg must be a number above 0 and up to 50, got "-3"'],
    [['--width', '0'], `--width must be ${size}, got "0"`],
    [['--height', '5000'], `--height must be ${size}, got "5000"`],
    [['--num', '17'], '--num must be a whole number from 1 to 16, got "17"'],
    [['--seed', '-1'], '--seed must be a whole number from 0 to 4294967295, got "-1"'],
    [['--seed', '4294967296'], '--seed must be a whole number from 0 to 4294967295, got "4294967296"'],
    [['--clip-skip', '13'], '--clip-skip must be a whole number from 1 to 12, got "13"'],
    [['--threads', '0'], `--threads must be a whole number from 1 to ${availableParallelism()}, got "0"`],
    [['--threads', '100000'], `--threads must be a whole number from 1 to ${availableParallelism()}, got "100000"`],
    [['--prompt-2', 'a\0b'], '--prompt-2 must be Unicode text without NUL characters'],
    [['--negative-2', 'half a pair: \ud83c'], '--negative-2 must be Unicode text without NUL characters'],
    [['--precision', 'fp8'], '--precision must be one of auto, fp32, fp16, bf16, int8, got "fp8"'],
    [['--device', 'tpu'], '--device must be one of cpu, cuda, webgpu, gpu, npu, got "tpu"'],
    [['--cache-limit', 'lots'], '--cache-limit must be a size such as 40GB or 512MiB, from 1MB to 1000TB, got "lots"'],
    [['--cache', ''], '--cache must be a folder, got ""'],
    [['-o', 'a.webp'], '--output must end in .png, .jpg or .jpeg or be a folder, got "a.webp"'],
    [['--negative', '🍎'.repeat(10_001)], '--negative must have at most 10000 characters, got 10001'],
    [['--stesp', '3'], "unknown option '--stesp' (Did you mean --steps?)"],
    [['--seed'], "option '-s, --seed <numbers>' argument missing"],
    [['two', 'words'], "too many arguments for 'generate'. Expected 1 argument but got 3: pictures, two, words."],
  ])('%j', async (options, message) => {
    const { code, stdout, stderr } = await run(['generate', 'pictures', ...options])
    expect(stderr).toMatch(/^[^\n]+\n$/)
    expect(stderr).toContain(`sepia: ${message}`)
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    // Nothing was begun.
    expect(readdirSync(cache)).toEqual([])
  })

  it('lists the samplers', async () => {
    const { code, stderr } = await generate('pictures', '--sampler', 'Euler a')
    expect(code).toBe(2)
    expect(stderr).toMatch(/^sepia: --sampler must be one of DDIM, .*K_EULER_ANCESTRAL.*, got "Euler a"\n$/)
  })

  it.each([[['generate']], [['frobnicate']], [['generate', 'x', '--nope']]])(
    'is a JSON object with --json: %j',
    async (argv) => {
      const { code, stdout, stderr } = await run([...argv, '--json'])
      expect({ code, stderr }).toEqual({ code: 2, stderr: '' })
      const { error } = JSON.parse(stdout) as { error: { code: string; message: string } }
      expect(Object.keys(error)).toEqual(['code', 'message'])
      expect(error.code).toBe('bad_argument')
      expect(error.message).toMatch(/^[^\n]+$/)
    },
  )

  it('takes --json behind two dashes for a prompt', async () => {
    const { stdout, stderr } = await run(['generate', '-o', at('a.png'), '--', '--json'])
    expect({ stdout, stderr }).toEqual({ stdout: '', stderr: 'sepia: fixture engine: unknown behaviour --json\n' })
  })

  it('without a command shows the help', async () => {
    const { code, stderr } = await run([])
    expect(code).toBe(2)
    expect(stderr).toContain('Examples:')
  })
})

describe('what is not there', () => {
  it('a model', async () => {
    const { code, stderr } = await generate('pictures', '--model', at('no.safetensors'))
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: `sepia: --model: there is no file or folder ${at('no.safetensors')}\n`,
    })
    const inspection = await run(['inspect', at('no.safetensors'), '--json'])
    expect(inspection.code).toBe(1)
    expect(JSON.parse(inspection.stdout)).toMatchObject({ error: { code: 'model_not_found' } })
  })

  it('a folder for the pictures', async () => {
    const { code, stderr } = await run(['generate', 'pictures', '-o', at('no/a.png')])
    expect({ code, stderr }).toEqual({ code: 1, stderr: `sepia: --output: the folder ${at('no')} does not exist\n` })
    expect(readdirSync(cache)).toEqual([])
  })

  it('a cache that could be written', async () => {
    writeFileSync(at('file'), '')
    const { code, stdout } = await run(['generate', 'pictures', '-o', folder, '--cache', at('file/cache'), '--json'])
    expect(code).toBe(1)
    expect(JSON.parse(stdout)).toMatchObject({ error: { code: 'cache_unwritable' } })
  })
})

describe('help', () => {
  it('prints the version of the package', async () => {
    const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
      version: string
    }
    expect(await run(['--version'])).toEqual({ code: 0, stdout: `${version}\n`, stderr: '' })
  })

  it.each([[['--help']], [['help', 'generate']], [['generate', '--help']], [['inspect', '-h']], [['doctor', '-h']]])(
    '%j is fit for a terminal',
    async (argv) => {
      const { code, stdout, stderr } = await run(argv)
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
      expect(stdout).toContain('Usage: sepia')
      for (const line of stdout.split('\n')) expect(line.length).toBeLessThanOrEqual(80)
    },
  )
})

describe('sepia doctor', () => {
  it('asks an engine process which devices work', async () => {
    const { code, stdout } = await run(['doctor', '--json'])
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({
      node: { version: process.version },
      cache: { folder: cache },
      onnxruntime: { onnxruntimeVersion: process.versions.node, providers: [{ name: 'cpu', loads: true }] },
    })
    expect(readdirSync(cache)).toEqual([])
  })
})
