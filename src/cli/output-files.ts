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
}

const encodings: Readonly<Record<string, 'png' | 'jpeg'>> = { '.png': 'png', '.jpg': 'jpeg', '.jpeg': 'jpeg' }

/**
 * Resolve `--output` for pictures with these seeds and prove that it can be written. A file name decides the encoding
 * and gets -1, -2, … for several pictures; a folder, or nothing for the current one, gets `sepia-<seed>.png`.
 * Throws `bad_argument` for an unknown extension, `output_unwritable` or `disk_full` for what the disk refuses.
 */
export function planOutput(output: string | undefined, seeds: readonly number[]): OutputPlan {
  const target = path.resolve(output ?? '.')
  if (output === '') throw new AppError('bad_argument', '--output must be a file or a folder, got ""')
  if (output === undefined || output.endsWith('/') || output.endsWith(path.sep) || isFolder(target)) {
    proveWritable(target)
    return { imageEncoding: 'png', pathOf: (index) => freeName(path.join(target, `sepia-${seeds[index]}.png`)) }
  }
  const extension = path.extname(target)
  const imageEncoding = encodings[extension.toLowerCase()]
  if (!imageEncoding)
    throw new AppError('bad_argument', `--output must end in .png, .jpg or .jpeg or be a folder, got "${output}"`)
  const stem = target.slice(0, target.length - extension.length)
  const paths = seeds.map((_, index) => (seeds.length === 1 ? target : `${stem}-${index + 1}${extension}`))
  proveWritable(path.dirname(target))
  const files = paths.map(provenTarget)
  return { imageEncoding, pathOf: (index) => files[index] }
}

/** Write a picture under a temporary name beside its target, then rename it. Throws `disk_full`, `output_unwritable`. */
export function writePicture(file: string, bytes: Uint8Array): void {
  const temporary = temporaryBeside(file)
  try {
    writeFileSync(temporary, bytes, { flag: 'wx' })
    renameSync(temporary, file)
  } catch (error) {
    rmSync(temporary, { force: true })
    throw outputFault(error, file)
  }
}

function isFolder(target: string): boolean {
  try {
    return statSync(target).isDirectory()
  } catch (error) {
    // What is not there is meant to become a file; every other fault is met again when its folder is tried.
    if (['ENOENT', 'ENOTDIR', 'EACCES'].includes(errnoOf(error))) return false
    throw outputFault(error, target)
  }
}

/** Make and remove a file: permissions, read-only disks and quotas show only when one really writes. */
function proveWritable(folder: string): void {
  const probe = temporaryBeside(path.join(folder, 'probe'))
  try {
    closeSync(openSync(probe, 'wx'))
    rmSync(probe)
  } catch (error) {
    // The kernel's own folders are there and answer the same to whoever wants to make a file in them.
    if (errnoOf(error) === 'ENOENT' && !isFolder(folder))
      throw new AppError('output_unwritable', `--output: the folder ${folder} does not exist`, { cause: error })
    throw outputFault(error, folder)
  }
}

/** The file that writing to `target` would change: the end of its links, a regular file when it exists. */
function provenTarget(target: string): string {
  try {
    lstatSync(target)
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return target
    throw outputFault(error, target)
  }
  try {
    const file = realpathSync(target)
    if (!statSync(file).isFile()) throw new AppError('output_unwritable', `--output: ${target} is not a regular file`)
    accessSync(file, constants.W_OK)
    // The rename happens in the folder of the link's end.
    if (file !== target) proveWritable(path.dirname(file))
    return file
  } catch (error) {
    throw outputFault(error, target)
  }
}

function freeName(file: string): string {
  const { dir, name, ext } = path.parse(file)
  for (let count = 1; ; count++) {
    const candidate = count === 1 ? file : path.join(dir, `${name}-${count}${ext}`)
    if (!lstatSync(candidate, { throwIfNoEntry: false })) return candidate
  }
}

function temporaryBeside(file: string): string {
  return path.join(path.dirname(file), `.sepia-${process.pid}-${randomBytes(6).toString('hex')}.part`)
}

function errnoOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : ''
}

function outputFault(error: unknown, file: string): unknown {
  const code = errnoOf(error)
  if (error instanceof AppError || code === '') return error
  if (['ENOSPC', 'EDQUOT', 'EFBIG'].includes(code))
    return new AppError('disk_full', `--output: no space left for ${file} (${code})`, { cause: error })
  return new AppError('output_unwritable', `--output: cannot write ${file} (${code})`, { cause: error })
}
