// What the documents say of the code, held against the code.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it, test } from 'vitest'
import { buildProgram } from '../src/cli/program.ts'
import { resolveConfig } from '../src/config.ts'
import { errorTable } from '../src/errors.ts'

const root = path.resolve(import.meta.dirname, '..')
const read = (file: string): string => readFileSync(path.join(root, file), 'utf8')
const inFolder = (folder: string): string[] =>
  readdirSync(path.join(root, folder))
    .filter((name) => name.endsWith('.md'))
    .map((name) => path.join(folder, name))
const documents = ['.', 'docs', 'docs/adr', 'bench'].flatMap(inFolder)

/** The anchor that GitHub gives a heading. */
const anchorOf = (heading: string): string =>
  heading
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N} -]/gu, '')
    .replaceAll(' ', '-')

test.each(documents)('%s: every link leads somewhere', (document) => {
  const links = Array.from(read(document).matchAll(/\]\(([^)\s]+)\)/g), ([, target]) => target)
  const dead = links
    .filter((target) => !/^https?:/.test(target))
    .filter((target) => {
      const [place, anchor] = target.split('#', 2)
      const file = place === '' ? document : path.join(path.dirname(document), place)
      if (!existsSync(path.join(root, file))) return true
      const headings = anchor === undefined ? [] : Array.from(read(file).matchAll(/^#+ (.*)$/gm), ([, text]) => text)
      return anchor !== undefined && !headings.map(anchorOf).includes(anchor)
    })
  expect(dead).toEqual([])
})

test('ARCHITECTURE.md has each error code once, and no others', () => {
  const table = /^\| code \|[^]*?\n\n/m.exec(read('ARCHITECTURE.md'))![0]
  const codes = Array.from(table.matchAll(/^\| `(\w+)`/gm), ([, code]) => code)
  expect(codes.sort()).toEqual(Object.keys(errorTable).sort())
})

describe('README.md', () => {
  const readme = read('README.md')
  const program = buildProgram({ stdout: process.stdout, stderr: process.stderr, signal: AbortSignal.abort() }, () =>
    resolveConfig({}),
  )

  it('starts with two lines: one that makes a picture, one that tests', () => {
    const lines = /^## Quick start\n+```\n([^]*?)```/m.exec(readme)![1].trim().split('\n')
    expect(lines).toEqual([expect.stringMatching(/^npm install && npx sepia generate ".*" -o \w+\.png$/), 'npm test'])
  })

  it('shows no option that the command does not have', () => {
    const known = new Set(
      program.commands
        .concat(program.commands.flatMap((command) => command.commands))
        .flatMap((command) => command.options.flatMap(({ short, long }) => [short, long, '--help'])),
    )
    const commands = readme.replaceAll('\\\n', '').match(/npx sepia [^`\n]*/g) ?? []
    const shown = commands.flatMap((text) => text.replaceAll(/"[^"]*"/g, '').match(/(?<=\s)--?[a-z][\w-]*/g) ?? [])
    expect(shown.length).toBeGreaterThan(10)
    expect(shown.filter((option) => !known.has(option))).toEqual([])
  })
})

test('NOTICE names every package of the run time with its licence', () => {
  const notice = read('NOTICE')
  const { dependencies } = JSON.parse(read('package.json')) as { dependencies: Record<string, string> }
  for (const name of Object.keys(dependencies)) {
    const { license } = JSON.parse(read(`node_modules/${name}/package.json`)) as { license: string }
    expect(notice).toMatch(new RegExp(`^ +${name} +${license}\\b`, 'm'))
  }
})
