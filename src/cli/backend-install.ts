// `sepia backend install openvino`: the pinned wheel, fetched by the machine's own pip, checked, and unpacked into the data
// folder as far as its libraries go. Nothing of Python is used afterwards.
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { manifestName, type OpenvinoManifest } from '#engine/backends/openvino-places.ts'
import { AppError } from '../errors.ts'
import { openvinoVersion, pipArguments, type OpenvinoWheel } from './backend-wheels.ts'
import { readWheel, type WheelFile } from './wheel-archive.ts'

/** Libraries that our graphs need: the C interface, the core, the devices, the readers of ONNX and of what was compiled, and threads. */
const libraryPattern =
  /^openvino\/libs\/(?:(?:lib)?openvino(?:_c|_(?:intel|arm)_[a-z_]+|_(?:onnx|ir)_frontend)?\.?(?:[\d.]*dylib|so[\d.]*|dll)|(?:lib)?(?:tbb|hwloc)[\w.]*(?:dylib|so[\d.]*|dll)|cache\.json)$/
const licencePattern = /\.dist-info\/licenses\/(?:.*\/)?([\w.-]+)$/

/** Ways to call pip, in the order in which they are tried. */
const pipCommands: readonly (readonly [string, ...string[]])[] = [
  ['python3', '-m', 'pip'],
  ['python', '-m', 'pip'],
  ['pip3'],
  ['pip'],
]

/** How an installation is done. */
export type InstallOptions = {
  readonly wheel: OpenvinoWheel
  /** A wheel that was fetched by hand; null: pip fetches it. */
  readonly file: string | null
  /** The folder that it becomes. */
  readonly target: string
  readonly signal: AbortSignal
  readonly pips?: typeof pipCommands
}

/**
 * Fetch, check and unpack; what was installed before is replaced at the end, in one step. Throws `fetch_failed` without
 * pip or network, `bad_file` for another wheel than the pinned one, `disk_full`, `output_unwritable`, `cancelled`.
 */
export async function installOpenvino(options: InstallOptions): Promise<OpenvinoManifest> {
  const { file, signal, target, wheel } = options
  const parent = path.dirname(target)
  try {
    await mkdir(parent, { recursive: true })
    await removeLeftovers(target)
    const partial = await mkdtemp(`${target}.partial-`)
    try {
      const fetched = file ?? (await fetchWheel(wheel, partial, signal, options.pips ?? pipCommands))
      const manifest = await unpackWheel(fetched, wheel, path.join(partial, 'unpacked'))
      if (signal.aborted) throw new AppError('cancelled', 'cancelled')
      await replaceFolder(path.join(partial, 'unpacked'), target)
      return manifest
    } finally {
      await rm(partial, { recursive: true, force: true })
    }
  } catch (error) {
    throw folderFault(error, parent)
  }
}

/** What is told where pip is missing or fails: the file, and what to do with it. */
function byHand({ file, sha256 }: OpenvinoWheel): string {
  return `fetch ${file} (SHA-256 ${sha256}) from PyPI's files of openvino ${openvinoVersion} and run "sepia backend install openvino --wheel ${file}"`
}

async function fetchWheel(
  wheel: OpenvinoWheel,
  folder: string,
  signal: AbortSignal,
  pips: typeof pipCommands,
): Promise<string> {
  for (const [command, ...first] of pips) {
    const version = await run(command, [...first, '--version'], signal)
    if (version.code !== 0) continue
    const { code, output } = await run(command, [...first, ...pipArguments(wheel, folder)], signal)
    if (code === 0) return path.join(folder, wheel.file)
    const words = output.trim().split('\n').at(-1)
    throw new AppError(
      'fetch_failed',
      `openvino: ${[command, ...first].join(' ')} could not fetch it: ${words}; ${byHand(wheel)}`,
    )
  }
  throw new AppError('fetch_failed', `openvino: there is no pip on this machine; ${byHand(wheel)}`)
}

/** Run a program to its end; a program that is not there has no code. */
function run(
  command: string,
  args: readonly string[],
  signal: AbortSignal,
): Promise<{ code: number | null; output: string }> {
  return new Promise((resolve, reject) => {
    let output = ''
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], signal })
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (text: string) => (output = (output + text).slice(-4096)))
    child.once('error', () => {
      if (signal.aborted) reject(new AppError('cancelled', 'cancelled'))
      else resolve({ code: null, output })
    })
    child.once('close', (code) => resolve({ code, output }))
  })
}

async function unpackWheel(file: string, wheel: OpenvinoWheel, folder: string): Promise<OpenvinoManifest> {
  const bytes = await readWheelFile(file)
  const digest = createHash('sha256').update(bytes).digest('hex')
  if (digest !== wheel.sha256)
    throw new AppError('bad_file', `file ${file} has the SHA-256 ${digest}, ${wheel.file} has ${wheel.sha256}`)
  await mkdir(path.join(folder, 'licenses'), { recursive: true })
  const files: { name: string; sizeBytes: number }[] = []
  for (const entry of readWheel(bytes, file)) {
    const name = placeOf(entry)
    if (name === null) continue
    await writeFile(path.join(folder, name), entry.read(), { flush: true })
    files.push({ name, sizeBytes: entry.sizeBytes })
  }
  const manifest = { version: openvinoVersion, wheel: wheel.file, files }
  await writeFile(path.join(folder, manifestName), `${JSON.stringify(manifest, null, 2)}\n`, { flush: true })
  return manifest
}

/** Where an entry goes; null: it is not needed. */
function placeOf({ name }: WheelFile): string | null {
  if (libraryPattern.test(name)) return path.posix.basename(name)
  const licence = licencePattern.exec(name)
  return licence ? `licenses/${licence[1]}` : null
}

async function readWheelFile(file: string): Promise<Buffer> {
  try {
    return await readFile(file)
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : String(error)
    throw new AppError('bad_file', `file ${file} cannot be read (${code})`, { cause: error })
  }
}

/** Put a folder in the place of another; whoever has the old one's libraries loaded keeps them. */
async function replaceFolder(folder: string, target: string): Promise<void> {
  const old = `${target}.partial-old-${process.pid}`
  await rename(target, old).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error
  })
  await rename(folder, target)
  await rm(old, { recursive: true, force: true })
}

/** Folders of installations that were killed. */
async function removeLeftovers(target: string): Promise<void> {
  const parent = path.dirname(target)
  for (const name of await readdir(parent))
    if (name.startsWith(`${path.basename(target)}.partial-`))
      await rm(path.join(parent, name), { recursive: true, force: true })
}

function folderFault(error: unknown, folder: string): unknown {
  const code = error instanceof Error && 'code' in error ? String(error.code) : ''
  if (error instanceof AppError || !/^E[A-Z]+$/.test(code)) return error
  const isFull = code === 'ENOSPC' || code === 'EDQUOT'
  return new AppError(isFull ? 'disk_full' : 'output_unwritable', `--data: cannot write in ${folder} (${code})`, {
    cause: error,
  })
}
