// The cache folder's disk: making folders, and one meaning for each of its errors.
import { mkdir, stat } from 'node:fs/promises'
import path from 'node:path'
import { AppError } from '../../errors.ts'

const fullCodes = new Set(['ENOSPC', 'EDQUOT', 'EFBIG'])
const unwritableCodes = new Set([
  'EACCES',
  'EPERM',
  'EROFS',
  'ENOTDIR',
  'EEXIST',
  'ENOENT',
  'ELOOP',
  'ENAMETOOLONG',
  'EISDIR',
])

/** The error that a user should see for `error`, met while writing under `folder`; what is no disk error stays as it is. */
export function cacheFault(error: unknown, folder: string): unknown {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  if (error instanceof AppError || typeof code !== 'string') return error
  if (fullCodes.has(code))
    return new AppError('disk_full', `cache: no space left in ${folder} (${code})`, { cause: error })
  if (unwritableCodes.has(code))
    return new AppError('cache_unwritable', `cache: cannot write in ${folder} (${code}); choose another folder`, {
      cause: error,
    })
  return error
}

/** Make a folder and those above it; one that is there is fine. Node's own recursive way says ENOENT for a read-only disk. */
export async function makeFolder(folder: string): Promise<void> {
  try {
    await makeOne(folder)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || folder === path.dirname(folder)) throw error
    await makeFolder(path.dirname(folder))
    await makeOne(folder)
  }
}

async function makeOne(folder: string): Promise<void> {
  try {
    await mkdir(folder)
  } catch (error) {
    // EEXIST mostly, but a read-only disk may say EROFS before it looks.
    if (!(await isFolder(folder))) throw error
  }
}

async function isFolder(folder: string): Promise<boolean> {
  try {
    return (await stat(folder)).isDirectory()
  } catch {
    // Why it could not be made is the error that counts.
    return false
  }
}
