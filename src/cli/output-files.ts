// Where pictures go. Everything that can be wrong with a target is found before the work begins, and a picture appears
// under its name complete or not at all. All writing is synchronous: a signal is handled between pictures, never
// inside one.
import { randomBytes } from 'node:crypto'
import {
  accessSync,
  closeSync,
  constants,
  lstatSync,
  openSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import { AppError } from '../errors.ts'

/** Where the pictures of one command go. */
export type OutputPlan = {
  readonly imageEncoding: 'png' | 'jpeg'
  /** Absolute path of picture `index`. Names that we choose ourselves avoid the files that are there. */
  readonly pathOf: (index: number) => string
  readonly sheet: OutputSheet | null
}

/** The file of `--grid`. */
export type OutputSheet = { readonly path: string; readonly imageEncoding: 'png' | 'jpeg' }

const encodings: Readonly<Record<string, 'png' | 'jpeg'>> = { '.png': 'png', '.jpg': 'jpeg', '.jpeg': 'jpeg' }

/**
 * Resolve `--output` for pictures with these seeds, and `--grid` for their contact sheet, and prove that both can be
 * written. A file name decides the encoding and gets -1, -2, … for several pictures; a folder, or nothing for the current
 * one, gets `sepia-<seed>.png`. Throws `bad_argument` for an unknown extension or one file for both,
 * `output_unwritable` or `disk_full` for what the disk refuses.
 */
export function planOutput(output: string | undefined, seeds: readonly number[], grid?: string): OutputPlan {
  const target = path.resolve(output ?? '.')
  if (output === '') throw new AppError('bad_argument', '--output must be a file or a folder, got ""')
  if (output === undefined || output.endsWith('/') || output.endsWith(path.sep) || isFolder(target, '--output')) {
    proveWritable(target, '--output')
    const sheet = grid === undefined ? null : planSheet(grid, [])
    const pathOf = (index: number): string =>
      freeName(path.join(target, `sepia-${seeds[index]}.png`), sheet?.path ?? null)
    return { imageEncoding: 'png', pathOf, sheet }
  }
  const extension = path.extname(target)
  const imageEncoding = encodings[extension.toLowerCase()]
  if (!imageEncoding)
    throw new AppError('bad_argument', `--output must end in .png, .jpg or .jpeg or be a folder, got "${output}"`)
  const stem = target.slice(0, target.length - extension.length)
  const paths = seeds.map((_, index) => (seeds.length === 1 ? target : `${stem}-${index + 1}${extension}`))
  proveWritable(path.dirname(target), '--output')
  const files = paths.map((file) => provenTarget(file, '--output'))
  return { imageEncoding, pathOf: (index) => files[index], sheet: grid === undefined ? null : planSheet(grid, files) }
}

function planSheet(grid: string, pictures: readonly string[]): OutputSheet {
  const target = path.resolve(grid)
  const imageEncoding = encodings[path.extname(target).toLowerCase()]
  if (!imageEncoding) throw new AppError('bad_argument', `--grid must end in .png, .jpg or .jpeg, got "${grid}"`)
  proveWritable(path.dirname(target), '--grid')
  const file = provenTarget(target, '--grid')
  if (pictures.includes(file))
    throw new AppError('bad_argument', `--grid must be another file than the pictures of --output, got "${grid}"`)
  return { path: file, imageEncoding }
}

/** Write a picture under a temporary name beside its target, then rename it. Throws `disk_full`, `output_unwritable`. */
export function writePicture(file: string, bytes: Uint8Array, option: '--output' | '--grid' = '--output'): void {
  const temporary = temporaryBeside(file)
  try {
    writeFileSync(temporary, bytes, { flag: 'wx' })
    renameSync(temporary, file)
  } catch (error) {
    rmSync(temporary, { force: true })
    throw outputFault(error, file, option)
  }
}

function isFolder(target: string, option: string): boolean {
  try {
    return statSync(target).isDirectory()
  } catch (error) {
    // What is not there is meant to become a file; every other fault is met again when its folder is tried.
    if (['ENOENT', 'ENOTDIR', 'EACCES'].includes(errnoOf(error))) return false
    throw outputFault(error, target, option)
  }
}

/** Make and remove a file: permissions, read-only disks and quotas show only when one really writes. */
function proveWritable(folder: string, option: string): void {
  const probe = temporaryBeside(path.join(folder, 'probe'))
  try {
    closeSync(openSync(probe, 'wx'))
    rmSync(probe)
  } catch (error) {
    // The kernel's own folders are there and answer the same to whoever wants to make a file in them.
    if (errnoOf(error) === 'ENOENT' && !isFolder(folder, option))
      throw new AppError('output_unwritable', `${option}: the folder ${folder} does not exist`, { cause: error })
    throw outputFault(error, folder, option)
  }
}

/** The file that writing to `target` would change: the end of its links, a regular file when it exists. */
function provenTarget(target: string, option: string): string {
  try {
    lstatSync(target)
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return target
    throw outputFault(error, target, option)
  }
  try {
    const file = realpathSync(target)
    if (!statSync(file).isFile()) throw new AppError('output_unwritable', `${option}: ${target} is not a regular file`)
    accessSync(file, constants.W_OK)
    // The rename happens in the folder of the link's end.
    if (file !== target) proveWritable(path.dirname(file), option)
    return file
  } catch (error) {
    throw outputFault(error, target, option)
  }
}

/** `file`, or the first of file-2, file-3, … that is neither there nor `reserved`. */
function freeName(file: string, reserved: string | null): string {
  const { dir, name, ext } = path.parse(file)
  for (let count = 1; ; count++) {
    const candidate = count === 1 ? file : path.join(dir, `${name}-${count}${ext}`)
    if (candidate !== reserved && !lstatSync(candidate, { throwIfNoEntry: false })) return candidate
  }
}

function temporaryBeside(file: string): string {
  return path.join(path.dirname(file), `.sepia-${process.pid}-${randomBytes(6).toString('hex')}.part`)
}

function errnoOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : ''
}

function outputFault(error: unknown, file: string, option: string): unknown {
  const code = errnoOf(error)
  if (error instanceof AppError || code === '') return error
  if (['ENOSPC', 'EDQUOT', 'EFBIG'].includes(code))
    return new AppError('disk_full', `${option}: no space left for ${file} (${code})`, { cause: error })
  return new AppError('output_unwritable', `${option}: cannot write ${file} (${code})`, { cause: error })
}
