// The folder of a server that runs on one machine: what lies where in it, and the lock that keeps a second server out.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { AppError } from '../../errors.ts'

/** Places inside a data folder. */
export type DataFolder = {
  /** PGlite's files. */
  readonly database: string
  /** Blobs. */
  readonly files: string
  /** The socket of a running server's administration. */
  readonly adminSocket: string
}

/** Where things lie in `dataDir`. */
export function dataFolder(dataDir: string): DataFolder {
  return {
    database: path.join(dataDir, 'database'),
    files: path.join(dataDir, 'files'),
    adminSocket: path.join(dataDir, 'admin.sock'),
  }
}

/** SQLITE_BUSY of https://sqlite.org/rescode.html */
const sqliteBusy = 5

/**
 * Make the folder, readable by its owner only, and keep other processes out of it until disposal. The lock is one of the
 * kernel, taken through an empty SQLite file: it ends with its process, however that ends. Throws `data_in_use`.
 */
export function lockDataFolder(dataDir: string): Disposable {
  makeFolder(dataDir)
  const ownerFile = path.join(dataDir, 'owner.pid')
  const lockFile = path.join(dataDir, 'owner.lock')
  writeFileSync(lockFile, '', { flag: 'a', mode: 0o600 })
  const lock = new DatabaseSync(lockFile, { timeout: 0 })
  try {
    lock.exec('BEGIN EXCLUSIVE')
  } catch (error) {
    lock.close()
    if ((error as { errcode?: number }).errcode !== sqliteBusy) throw error
    throw new AppError('data_in_use', `data folder ${dataDir}: in use by ${ownerOf(ownerFile)}`, { cause: error })
  }
  writeFileSync(ownerFile, `${process.pid}\n`, { mode: 0o600 })
  return { [Symbol.dispose]: () => lock.close() }
}

function makeFolder(dataDir: string): void {
  try {
    mkdirSync(dataDir, { recursive: true, mode: 0o700 })
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new AppError('bad_argument', `data folder ${dataDir}: cannot be made (${code})`, { cause: error })
  }
}

function ownerOf(ownerFile: string): string {
  try {
    return `process ${readFileSync(ownerFile, 'utf8').trim()}`
  } catch (error) {
    // The owner writes it right after it has taken the lock.
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 'another process'
    throw error
  }
}
