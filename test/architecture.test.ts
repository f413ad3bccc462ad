// Holds every import of src/ against the table of rooms in ARCHITECTURE.md, and the house rules that text can show.
import { readdirSync, readFileSync } from 'node:fs'
import { isBuiltin } from 'node:module'
import path from 'node:path'
import { describe, expect, it } from 'vitest'

/** Room → the rooms it may import, and the packages (those with `only` in that one file). */
const rooms: Record<string, { rooms: string[]; files?: string[]; packages: Record<string, 'anywhere' | string[]> }> = {
  cli: {
    rooms: ['http', 'service', 'worker', 'training', 'diffusion', 'engine', 'image', 'tensor'],
    packages: { commander: 'anywhere', 'cli-progress': 'anywhere' },
  },
  http: { rooms: ['service'], packages: { fastify: 'anywhere', zod: 'anywhere' } },
  service: {
    rooms: [],
    files: ['worker/protocol.ts', 'worker/engine-process.ts', 'image/probe.ts'],
    packages: { 'drizzle-orm': 'anywhere', pg: 'anywhere', 'pg-boss': 'anywhere', zod: 'anywhere' },
  },
  worker: { rooms: ['diffusion', 'training', 'engine', 'image', 'tensor'], packages: {} },
  training: { rooms: ['diffusion', 'engine', 'image', 'tensor'], packages: {} },
  diffusion: { rooms: ['engine', 'tensor'], packages: {} },
  engine: {
    rooms: ['tensor'],
    packages: {
      'onnxruntime-node': ['engine/backends/onnxruntime.ts'],
      koffi: ['engine/backends/openvino.ts'],
      // The cache of prepared weights is shared by processes.
      'proper-lockfile': ['engine/weights/cache-lock.ts'],
    },
  },
  image: { rooms: ['tensor'], packages: { sharp: 'anywhere' } },
  tensor: { rooms: [], packages: {} },
}
/** Importable by every room: errors, the log, and tables of pure data. */
const everywhere = ['errors.ts', 'logger.ts', 'diffusion/samplers.ts', 'diffusion/style-presets.ts']
/** Root files → who may import them; main.ts, the entry, is imported by nobody. */
const rootFiles: Record<string, (from: string) => boolean> = {
  'config.ts': (from) => ['app.ts', 'main.ts', 'worker/main.ts'].includes(from) || from.startsWith('cli/'),
  'app.ts': (from) => from === 'main.ts' || from.startsWith('cli/'),
}
const dataTables = new Set(['diffusion/samplers.ts', 'diffusion/style-presets.ts'])
const bannedNames = new Set([
  'util',
  'utils',
  'helper',
  'helpers',
  'common',
  'types',
  'interfaces',
  'core',
  'lib',
  'index',
])
const lineLimit = 400

type Source = { file: string; text: string }
type Import = { specifier: string; dynamic: boolean }

const src = path.resolve(import.meta.dirname, '..', 'src')
const sources: Source[] = readdirSync(src, { recursive: true, encoding: 'utf8' })
  .filter((file) => /\.[cm]?[jt]sx?$/.test(file))
  .map((file) => ({ file: file.split(path.sep).join('/'), text: readFileSync(path.join(src, file), 'utf8') }))

/** The source with comments blanked, and strings that cannot be specifiers; template literals are kept whole. */
function withoutComments(text: string): string {
  return text.replace(
    /\/\*[^]*?\*\/|\/\/[^\n]*|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`|\/(?![*/])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n[])+\/[dgimsuvy]*(?=[\s.,;)\]])/g,
    (token) => {
      if (token.startsWith('/*') || token.startsWith('//')) return ' '
      return /^['"]/.test(token) && /[\s(]/.test(token) ? "''" : token
    },
  )
}

/** Every import of a module, static (types too), re-exporting, dynamic or by require. */
function importsOf(text: string): Import[] {
  const code = withoutComments(text)
  const found: Import[] = []
  for (const match of code.matchAll(/^[ \t]*(?:import|export)\b[^'"`;=()]*?\bfrom\s*(['"])(.+?)\1/gm))
    found.push({ specifier: match[2], dynamic: false })
  for (const match of code.matchAll(/^[ \t]*import\s*(['"])(.+?)\1/gm))
    found.push({ specifier: match[2], dynamic: false })
  for (const match of code.matchAll(/(?<![.\w$])(?:import|require)\s*\(\s*([^)]*)/g)) {
    const literal = /^(['"])(.+?)\1\s*,?\s*(?:\{[^]*)?$/.exec(match[1])
    found.push({ specifier: literal ? literal[2] : `(computed: ${match[1]})`, dynamic: true })
  }
  return found
}

const roomOf = (file: string): string | null => (file.includes('/') ? file.split('/')[0] : null)

/** The package's name in a specifier: "@scope/name/sub" → "@scope/name". */
function packageOf(specifier: string): string {
  return specifier.split('/', specifier.startsWith('@') ? 2 : 1).join('/')
}

/** What is wrong with one import, or null. */
function violation(from: string, specifier: string): string | null {
  if (specifier.startsWith('(computed')) return 'the module is computed, so nobody can see what is imported'
  if (specifier.startsWith('node:')) return isBuiltin(specifier) ? null : 'no module of Node'
  if (isBuiltin(specifier)) return `write node:${specifier}`
  if (specifier.startsWith('.') || specifier.startsWith('#')) return ownViolation(from, specifier)
  const room = roomOf(from)
  if (room === null) return 'a root file imports no packages except through the rooms'
  const allowed = rooms[room]?.packages[packageOf(specifier)]
  if (allowed === undefined) return `${room} may not import the package`
  return allowed === 'anywhere' || allowed.includes(from) ? null : `only ${allowed.join(', ')} may import the package`
}

function ownViolation(from: string, specifier: string): string | null {
  const target = specifier.startsWith('#') ? specifier.slice(1) : path.posix.join(path.posix.dirname(from), specifier)
  if (!sources.some(({ file }) => file === target)) return `there is no src/${target}`
  const [room, targetRoom] = [roomOf(from), roomOf(target)]
  const isHash = specifier.startsWith('#')
  if (targetRoom === null && isHash) return `write a root file as a relative path`
  if (targetRoom !== null && room === targetRoom && isHash) return 'inside a room write ./'
  if (targetRoom !== null && room !== targetRoom && !isHash && room !== null) return `across rooms write #${target}`
  if (room === targetRoom && room !== null) return null
  if (everywhere.includes(target)) return null
  if (targetRoom === null) return rootFiles[target]?.(from) ? null : `${target} is not for ${from}`
  // main.ts and app.ts put the rooms together; they are the only root files that may see them.
  if (room === null) return from === 'main.ts' || from === 'app.ts' ? null : 'a root file imports no room'
  const { rooms: allowedRooms, files = [] } = rooms[room]
  return allowedRooms.includes(targetRoom) || files.includes(target) ? null : `${room} may not import ${targetRoom}`
}

const violations = (source: Source): string[] =>
  importsOf(source.text).flatMap(({ specifier }) => {
    const wrong = violation(source.file, specifier)
    return wrong === null ? [] : [`${source.file} imports ${specifier}: ${wrong}`]
  })

/** Files whose code (not comments or strings) matches `pattern`. */
const filesWith = (pattern: RegExp): string[] =>
  sources
    .filter(({ text }) => pattern.test(withoutComments(text).replace(/'[^'\n]*'|"[^"\n]*"/g, "''")))
    .map(({ file }) => file)

describe('the house', () => {
  it('has only the rooms of the table', () => {
    const found = new Set(sources.map(({ file }) => roomOf(file)).filter((room) => room !== null))
    expect([...found].filter((room) => !(room in rooms))).toEqual([])
    expect(found.size).toBeGreaterThanOrEqual(4)
  })

  it('has only known files at its root', () => {
    const known = new Set(['main.ts', ...Object.keys(rootFiles), ...everywhere])
    expect(sources.map(({ file }) => file).filter((file) => roomOf(file) === null && !known.has(file))).toEqual([])
  })

  it('imports only what the table allows', () => {
    expect(sources.flatMap(violations)).toEqual([])
    expect(sources.flatMap(({ text }) => importsOf(text)).length).toBeGreaterThan(sources.length)
  })

  it('reads the environment in config.ts and sets the exit code in main.ts only', () => {
    const env = filesWith(
      /\bprocess\s*(?:\?\.|\.)\s*env\b|\bprocess\s*(?:\?\.)?\[|\{[^}]*\benv\b[^}]*\}\s*=\s*process\b/,
    )
    expect(env.filter((file) => file !== 'config.ts')).toEqual([])
    // The global is how it is written here, so that the pattern above finds all of it.
    const importers = sources.filter(({ text }) =>
      importsOf(text).some(({ specifier }) => specifier === 'node:process'),
    )
    expect(importers.map(({ file }) => file)).toEqual([])
    expect(filesWith(/\bprocess\.exitCode\b/).filter((file) => file !== 'main.ts')).toEqual([])
  })

  it('names its files kebab-case after nouns of the field', () => {
    const badCase = sources
      .map(({ file }) => file)
      .filter((file) => !/^(?:[a-z0-9]+(?:-[a-z0-9]+)*\/)*[a-z0-9]+(?:-[a-z0-9]+)*\.ts$/.test(file))
    expect(badCase).toEqual([])
    const banned = sources
      .map(({ file }) => file)
      .filter((file) =>
        file
          .replace(/\.ts$/, '')
          .split('/')
          .some((part) => bannedNames.has(part)),
      )
    expect(banned).toEqual([])
  })

  it(`keeps every file within ${lineLimit} lines, tables of data excepted`, () => {
    const long = sources.filter(
      ({ file, text }) => !dataTables.has(file) && text.trimEnd().split('\n').length > lineLimit,
    )
    expect(long.map(({ file }) => file)).toEqual([])
  })
})

describe('the reader of imports', () => {
  it('finds every form, and nothing in comments or strings', () => {
    const text = `
      import a from 'one'
      import {
        b, // from 'no'
        type C,
      } from "two"
      import type { D } from 'three'
      import 'four'
      import * as e from 'five'
      export { f } from 'six'
      export * from 'seven'
      export type { G } from 'eight'
      const h = await import('nine')
      const i = require("ten")
      type J = import('eleven').K
      const l = await import(where)
      // import m from 'no'
      /* import n from 'no'
         import 'no' */
      const o = "// import('no')" + 'x'
      const p = /['"]/.test(o) ? import('twelve') : null
    `
    expect(
      importsOf(text)
        .map(({ specifier }) => specifier)
        .sort(),
    ).toEqual(
      [
        'one',
        'two',
        'three',
        'four',
        'five',
        'six',
        'seven',
        'eight',
        'nine',
        'ten',
        'eleven',
        'twelve',
        '(computed: where)',
      ].sort(),
    )
  })

  it.each([
    ['tensor/tensor.ts', '#engine/backend.ts', 'tensor may not import engine'],
    ['diffusion/schedulers/scheduler.ts', '#worker/protocol.ts', 'diffusion may not import worker'],
    ['image/codec.ts', 'onnxruntime-node', 'image may not import the package'],
    ['engine/backend.ts', 'onnxruntime-node', 'only engine/backends/onnxruntime.ts may import the package'],
    ['engine/weights/checkpoint.ts', '#engine/backend.ts', 'inside a room write ./'],
    ['engine/backend.ts', '../tensor/tensor.ts', 'across rooms write #tensor/tensor.ts'],
    ['engine/backend.ts', '#errors.ts', 'write a root file as a relative path'],
    ['worker/protocol.ts', '../main.ts', 'main.ts is not for worker/protocol.ts'],
    ['errors.ts', '#tensor/tensor.ts', 'a root file imports no room'],
    ['engine/backend.ts', 'fs', 'write node:fs'],
    ['engine/backend.ts', './absent.ts', 'there is no src/engine/absent.ts'],
    ['tensor/tensor.ts', 'left-pad', 'tensor may not import the package'],
  ])('%s may not import %s', (from, specifier, reason) => {
    expect(violation(from, specifier)).toBe(reason)
  })

  it.each([
    ['worker/protocol.ts', '#tensor/tensor.ts'],
    ['tensor/tensor.ts', '../errors.ts'],
    ['engine/weights/checkpoint.ts', '../models/unet-config.ts'],
    ['image/codec.ts', 'sharp'],
    ['engine/backends/onnxruntime.ts', 'onnxruntime-node'],
    ['engine/backend.ts', 'node:fs/promises'],
  ])('%s may import %s', (from, specifier) => {
    expect(violation(from, specifier)).toBeNull()
  })
})
