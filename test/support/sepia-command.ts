// The command as users start it: bin/sepia.js in a process of its own, in a folder of its own, with all that it leaves.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect } from 'vitest'

export const bin = fileURLToPath(new URL('../../bin/sepia.js', import.meta.url))
const compiled = fileURLToPath(new URL('../../node_modules/.cache/sepia-tests', import.meta.url))

/** Where a command runs: its working folder, its cache, and what it takes for the system's temporary folder and its home. */
export type Place = { readonly folder: string; readonly cache: string; readonly temporary: string }

/** How a command ended; `code` is null after a signal. */
export type Outcome = { readonly code: number | null; readonly stdout: string; readonly stderr: string }

/** A command that runs, as the leader of its process group. */
export type Started = {
  readonly child: ChildProcess
  readonly stderr: () => string
  readonly ended: Promise<Outcome>
}

export type StartOptions = {
  readonly node?: string
  /** A command that ends with running its arguments, such as a shell that sets a limit first. */
  readonly wrapper?: readonly string[]
  /** Variables beside those that every command gets. */
  readonly env?: Readonly<Record<string, string>>
}

/** A new place below `parent`, or in the temporary folder; whoever makes it removes it. */
export function makePlace(cache?: string): Place {
  const root = realpathSync(mkdtempSync(path.join(tmpdir(), 'sepia-test-')))
  const place = {
    folder: path.join(root, 'work'),
    cache: cache ?? path.join(root, 'cache'),
    temporary: path.join(root, 'tmp'),
  }
  mkdirSync(place.folder)
  mkdirSync(place.temporary)
  return place
}

/** Remove a place, but not a cache that was given. */
export function removePlace({ folder }: Place): void {
  rmSync(path.dirname(folder), { recursive: true })
}

/** Start the command as a shell does: as the leader of a process group. */
export function startSepia(place: Place, argv: readonly string[], options: StartOptions = {}): Started {
  const { node = process.execPath, wrapper = [], env = {} } = options
  const [program, ...rest] = [...wrapper, node, bin, ...argv]
  const child = spawn(program, rest, {
    cwd: place.folder,
    env: {
      ...process.env,
      SEPIA_CACHE: place.cache,
      // What the fixtures were made for, whatever `auto` is on this machine.
      SEPIA_BACKEND: 'onnxruntime',
      SEPIA_PRECISION: 'fp32',
      TMPDIR: place.temporary,
      // So that whatever a library leaves there is seen.
      HOME: place.temporary,
      // Two thirds of the time of a command that is refused at once go into compiling it.
      NODE_COMPILE_CACHE: compiled,
      ...env,
    },
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => void (stdout += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => void (stderr += text))
  const ended = once(child, 'close').then(([code]) => ({ code: code as number | null, stdout, stderr }))
  return { child, stderr: () => stderr, ended }
}

/** Run the command to its end. */
export const sepia = (place: Place, argv: readonly string[], options?: StartOptions): Promise<Outcome> =>
  startSepia(place, argv, options).ended

/** The process and its descendants, parents first, from the kernel's table of processes. */
export function family(pid: number): number[] {
  const rows = processes()
  const found = [pid]
  for (const parent of found) found.push(...rows.filter(({ ppid }) => ppid === parent).map((row) => row.pid))
  return found
}

/** What a command that has ended left behind: files half written, scratch folders, locks, processes. */
export function leftovers({ cache, folder, temporary }: Place, pid?: number): string[] {
  const inCache = filesIn(cache).filter(
    (name) => name !== 'hashes.json' && !/^weights\/[0-9a-f]{64}-F(32|16)-v\d+\.safetensors$/.test(name),
  )
  const inFolder = filesIn(folder).filter((name) => name.endsWith('.part'))
  const group = pid === undefined ? [] : processes().filter((row) => row.group === pid && !/[ZX]/.test(row.state))
  return [...inCache, ...inFolder, ...filesIn(temporary), ...group.map((row) => `process ${row.pid}`)]
}

/**
 * Run a command line that must be refused, and check that there is one line of error, nothing on stdout, and nothing left
 * of it but what was there before. Returns the exit code and the line without "sepia: ".
 */
export async function refusal(
  place: Place,
  argv: readonly string[],
  options?: StartOptions,
): Promise<{ code: number | null; message: string }> {
  const before = filesIn(place.folder)
  const { child, ended } = startSepia(place, argv, options)
  const { code, stdout, stderr } = await ended
  expect(stderr).toMatch(/^sepia: [^\n]+\n$/)
  expect(stdout).toBe('')
  expect(code).not.toBe(0)
  expect(filesIn(place.folder)).toEqual(before)
  expect(leftovers(place, child.pid)).toEqual([])
  return { code, message: stderr.slice('sepia: '.length, -1) }
}

/** The same with `--json`: the error object on stdout, nothing on stderr. */
export async function jsonRefusal(
  place: Place,
  argv: readonly string[],
  options?: StartOptions,
): Promise<{ code: string; message: string }> {
  const before = filesIn(place.folder)
  const outcome = await sepia(place, [...argv, '--json'], options)
  expect(outcome.stderr).toBe('')
  expect(outcome.code).not.toBe(0)
  expect(filesIn(place.folder)).toEqual(before)
  expect(leftovers(place)).toEqual([])
  const { error, ...rest } = JSON.parse(outcome.stdout) as { error: { code: string; message: string } }
  expect(rest).toEqual({})
  expect(Object.keys(error)).toEqual(['code', 'message'])
  return error
}

/** Files and empty folders below a folder, if it is there, but for those that the command keeps there. */
function filesIn(folder: string): string[] {
  if (!existsSync(folder)) return []
  const kept = new Set(['weights', 'scratch'])
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .map((entry) => ({ name: path.relative(folder, path.join(entry.parentPath, entry.name)), entry }))
    .filter(({ name, entry }) => !entry.isDirectory() || (!kept.has(name) && isEmpty(path.join(folder, name))))
    .map(({ name }) => name)
    .sort()
}

function isEmpty(folder: string): boolean {
  return readdirSync(folder).length === 0
}

type ProcessRow = { readonly pid: number; readonly ppid: number; readonly group: number; readonly state: string }

function processes(): ProcessRow[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name): ProcessRow[] => {
      try {
        // proc(5): after the name in brackets come the state, the parent and the process group.
        const [, state, ppid, group] = /\) (\S) (\d+) (-?\d+)/.exec(readFileSync(`/proc/${name}/stat`, 'utf8'))!
        return [{ pid: Number(name), ppid: Number(ppid), group: Number(group), state }]
      } catch {
        // It has ended since it was listed.
        return []
      }
    })
}
