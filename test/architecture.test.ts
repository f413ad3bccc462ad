// Holds every import of src/ against the table of rooms in ARCHITECTURE.md, and the house rules that text can show.
import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { isBuiltin } from 'node:module'
import path from 'node:path'
import { describe, expect, it } from 'vitest'

const root = path.resolve(import.meta.dirname, '..')

/** Rows of the table in ARCHITECTURE.md whose first header is `header`, as cells of Markdown. */
function tableOf(header: string): string[][] {
  const lines = readFileSync(path.join(root, 'ARCHITECTURE.md'), 'utf8').split('\n')
  const start = lines.findIndex((line) => line.startsWith(`| ${header} |`))
  const end = lines.findIndex((line, index) => index > start && !line.startsWith('|'))
  return lines.slice(start + 2, end).map((line) => line.split('|').slice(1, -1))
}

/** The code spans of a cell. */
const spans = (cell: string): string[] => Array.from(cell.matchAll(/`([^`]+)`/g), ([, code]) => code)

/** Room → the rooms and single files it may import, and its packages: 'anywhere', or the one file or folder that may import them. */
const rooms: Record<string, { rooms: string[]; packages: Record<string, string> }> = Object.fromEntries(
  tableOf('room').map(([room, , mayImport, packages]) => [
    spans(room)[0],
    {
      rooms: spans(mayImport),
      packages: Object.fromEntries(
        Array.from(packages.matchAll(/`([^`]+)`(?: in `([^`]+)`)?/g), ([, name, only]) => [name, only ?? 'anywhere']),
      ),
    },
  ]),
)
/** Package → the one root file that may import it. */
const rootPackages: Record<string, string> = Object.fromEntries(
  tableOf('file').flatMap(([file, , , packages]) => spans(packages).map((name) => [name, spans(file)[0]])),
)
/** Files with a rule of their own → the rooms and files that may import them. */
const ownRules: Record<string, 'everywhere' | string[]> = Object.fromEntries(
  tableOf('file').map(([file, , importedBy]) => [
    spans(file)[0],
    importedBy.trim() === 'everywhere' ? 'everywhere' : spans(importedBy),
  ]),
)
/** Tables of pure data may be as long as they are. */
const dataTables = new Set(Object.keys(ownRules).filter((file) => file.includes('/')))
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

const src = path.join(root, 'src')
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
  if (room === null)
    return rootPackages[packageOf(specifier)] === from
      ? null
      : 'a root file imports no packages except through the rooms'
  const allowed = rooms[room]?.packages[packageOf(specifier)]
  if (allowed === undefined) return `${room} may not import the package`
  return allowed === 'anywhere' || allowed === from || from.startsWith(`${allowed}/`)
    ? null
    : `only ${allowed} may import the package`
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
  const ownRule = ownRules[target]
  if (ownRule === 'everywhere' || ownRule?.includes(room ?? from)) return null
  if (targetRoom === null) return `${target} is not for ${from}`
  // main.ts and app.ts put the rooms together; no other root file may see them.
  if (room === null) return from === 'main.ts' || from === 'app.ts' ? null : 'a root file imports no room'
  // A room that is closed as a whole may have single files that are open to others.
  if (rooms[room].rooms.includes(targetRoom) || rooms[room].rooms.includes(target)) return null
  return `${room} may not import ${rooms[room].rooms.some((name) => roomOf(name) === targetRoom) ? target : targetRoom}`
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
  it('has the rooms of the table, and the table the rooms of the house', () => {
    const found = new Set(sources.map(({ file }) => roomOf(file)).filter((room) => room !== null))
    expect([...found].sort()).toEqual(Object.keys(rooms).sort())
    expect(found.size).toBeGreaterThanOrEqual(4)
    const named = Object.values(rooms).flatMap((room) => room.rooms)
    const isThere = (name: string): boolean => found.has(name) || sources.some(({ file }) => file === name)
    expect(named.filter((name) => !isThere(name))).toEqual([])
  })

  it('has the files that have a rule of their own, and no others at its root', () => {
    const found = sources.map(({ file }) => file)
    expect(Object.keys(ownRules).filter((file) => !found.includes(file))).toEqual([])
    expect(found.filter((file) => roomOf(file) === null && !(file in ownRules))).toEqual([])
  })

  it('has the packages that package.json installs, each in the room that the table says', () => {
    const { dependencies } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as {
      dependencies: Record<string, string>
    }
    const named = [
      ...Object.values(rooms).flatMap(({ packages }) => Object.keys(packages)),
      ...Object.keys(rootPackages),
    ]
    // `node` is no library: bin/sepia.js runs it.
    expect([...new Set([...named, 'node'])].sort()).toEqual(Object.keys(dependencies).sort())
    const imported = new Set(sources.flatMap(({ text }) => importsOf(text)).map(({ specifier }) => specifier))
    expect(named.filter((name) => !imported.has(name))).toEqual([])
  })

  it('imports only what the table allows', () => {
    expect(sources.flatMap(violations)).toEqual([])
    expect(sources.flatMap(({ text }) => importsOf(text)).length).toBeGreaterThan(sources.length)
  })

  it('reads the environment in config.ts and sets the exit code in main.ts only', () => {
    const env = filesWith(
      /\bprocess\s*(?:\?\.|\.)\s*env\b|\bprocess\s*(?:\?\.)?\[|\{[^}]*\benv\b[^}]*\}\s*=\s*process\b/,
    )
    // The one is read by us, the other is written for a library that has no other switch.
    expect(env.filter((file) => file !== 'config.ts')).toEqual(['engine/backends/onnxruntime.ts'])
    const backend = sources.find(({ file }) => file === 'engine/backends/onnxruntime.ts')!
    expect(backend.text.match(/process\.env.*/g)).toEqual(["process.env['ORT_DISABLE_TELEMETRY'] = '1'"])
    // The global is how it is written here, so that the pattern above finds all of it.
    const importers = sources.filter(({ text }) =>
      importsOf(text).some(({ specifier }) => specifier === 'node:process'),
    )
    expect(importers.map(({ file }) => file)).toEqual([])
    expect(filesWith(/\bprocess\.exitCode\b/).filter((file) => file !== 'main.ts')).toEqual([])
  })

  it('loads the libraries of the service only for commands that need them', () => {
    const script = `
      import { registerHooks } from 'node:module'
      const loaded = []
      registerHooks({ load: (url, context, next) => (loaded.push(url), next(url, context)) })
      await import(process.argv[1])
      console.log(JSON.stringify(loaded))`
    const program = path.join(src, 'cli/program.ts')
    const output = execFileSync(process.execPath, ['--input-type=module', '--eval', script, program])
    const loaded = JSON.parse(output.toString()) as string[]
    expect(loaded.some((url) => url.endsWith('/src/cli/generate.ts'))).toBe(true)
    const packages = loaded.flatMap((url) => /\/node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(url)?.[1] ?? [])
    const ofTheService = new Set(['service', 'http'].flatMap((room) => Object.keys(rooms[room].packages)))
    expect([...new Set(packages)].filter((name) => ofTheService.has(name))).toEqual([])
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
    ['service/db/schema.ts', '#worker/run-generate.ts', 'service may not import worker/run-generate.ts'],
    ['service/db/schema.ts', '#tensor/tensor.ts', 'service may not import tensor'],
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
    ['service/db/schema.ts', '#worker/protocol.ts'],
  ])('%s may import %s', (from, specifier) => {
    expect(violation(from, specifier)).toBeNull()
  })
})
