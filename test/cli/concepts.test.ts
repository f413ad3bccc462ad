import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { PassThrough } from 'node:stream'
import { afterAll, expect, test } from 'vitest'
import type { ConceptList } from '../../src/cli/concepts.ts'
import { runCli } from '../../src/cli/program.ts'
import { resolveConfig } from '../../src/config.ts'

const folder = mkdtempSync(path.join(tmpdir(), 'sepia-concepts-'))
afterAll(() => rmSync(folder, { recursive: true }))

async function ran(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  let [out, err] = ['', '']
  const stdout = new PassThrough().setEncoding('utf8').on('data', (part: string) => void (out += part))
  const stderr = new PassThrough().setEncoding('utf8').on('data', (part: string) => void (err += part))
  const terminal = { stdout, stderr, signal: new AbortController().signal }
  const code = await runCli(['concepts', ...args], terminal, () => resolveConfig({ SEPIA_DATA: folder }))
  return { code, stdout: out, stderr: err }
}

test('sepia concepts lists what the shipped model knows, and what can be behind it', async () => {
  const { code, stdout } = await ran()
  expect(code).toBe(0)
  const lines = stdout.split('\n')
  expect(lines).toContain('apple, also: red apple')
  expect(lines).toContain('umbrella')
  expect(lines.at(-4)).toBe('Styles: cartoon, flat')
  expect(lines.at(-3)).toMatch(/^Backgrounds: white, black, .*\bbeige$/)
  expect(lines.at(-2)).toMatch(/^Places: on a green meadow, /)
})

test('a word finds the concepts that have it in one of their names, in whatever case', async () => {
  expect((await ran('FISH')).stdout).toBe('blowfish\nfish\n')
  expect((await ran('diamond')).stdout).toBe('gem, also: diamond\n')
})

test('a word that nothing has in its name is told, and is no error', async () => {
  expect(await ran('zeppelin')).toEqual({
    code: 0,
    stdout: '',
    stderr: 'None of 300 concepts has "zeppelin" in its name.\n',
  })
  expect((JSON.parse((await ran('zeppelin', '--json')).stdout) as ConceptList).concepts).toEqual([])
})

test('as JSON with everything that captions spoke of', async () => {
  const { concepts, styles, colours, places } = JSON.parse((await ran('--json')).stdout) as ConceptList
  expect(concepts).toHaveLength(300)
  expect(new Set(concepts.map(({ name }) => name)).size).toBe(300)
  expect(styles).toEqual(['cartoon', 'flat'])
  expect(colours).toContain('light blue')
  expect(places).toContain('in space')
})

test('a model without a list is told, be it a folder or a file', async () => {
  const tiny = path.resolve('test/golden/models/tiny-a')
  const { code, stderr } = await ran('--model', tiny)
  expect(code).toBe(1)
  expect(stderr).toBe(`sepia: ${tiny} has no concepts.json: models that know few things list them there\n`)
  const file = path.resolve('models/public/lora/pocket-blueprint.safetensors')
  expect((await ran('--model', file)).stderr).toContain(`${file} has no concepts.json`)
})

test.each([
  ['{"concepts": [', 'is no JSON'],
  ['{"concepts": [{"name": "cat"}], "styles": [], "colours": [], "places": []}', 'must have concepts (name, also)'],
  ['{"concepts": [], "styles": ["flat", 1], "colours": [], "places": []}', 'must have concepts (name, also)'],
  ['null', 'must have concepts (name, also)'],
])('a damaged list is refused: %s', async (text, message) => {
  writeFileSync(path.join(folder, 'concepts.json'), text)
  const { code, stderr } = await ran('--model', folder)
  expect(code).toBe(1)
  expect(stderr).toContain(message)
})

test('an empty word is refused', async () => {
  const { code, stderr } = await ran(' ')
  expect(code).toBe(2)
  expect(stderr).toBe('sepia: concepts: the word must not be empty, got ""\n')
})
