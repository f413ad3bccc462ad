// A folder of files that make up the public library: FOLDER/<type>/NAME.<ending>. It is looked through at each start, and a
// file that has not changed since is not read again.
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readdir, readFile, rename, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { pipeline } from 'node:stream/promises'
import { AppError } from '../../errors.ts'
import type { Logger } from '../../logger.ts'
import type { AssetType } from '../db/schema.ts'
import { addAsset, listAssets, publicAccount, removeAsset, type LibraryContext } from './public-library.ts'

/** A file of the folder and what became of it. */
export type ScannedFile = {
  /** Relative to the folder. */
  readonly file: string
  /** Why it is not in the library; null where it is. */
  readonly reason: string | null
}

/** What is remembered of a file between starts. */
type Known = { readonly signature: string; readonly reason: string | null }

const types: readonly AssetType[] = ['checkpoint', 'lora', 'textual_inversion', 'vae']
const endings: ReadonlySet<string> = new Set(['.safetensors', '.pt', '.pth', '.ckpt', '.bin'])
const namePattern = /^[a-zA-Z0-9_-]{1,64}$/

/**
 * Add what is new to the public library, replace what has changed, and tell of every file whether it is there.
 * `memoryFile` remembers what was read. Throws `bad_argument` for a folder that cannot be read, and what keeps a store or
 * an engine from working; a file that cannot be used is reported and left out.
 */
export async function scanPublicFolder(
  context: LibraryContext,
  folder: string,
  memoryFile: string,
  signal?: AbortSignal,
): Promise<readonly ScannedFile[]> {
  const owner = await publicAccount(context.database.db)
  const known = await readMemory(memoryFile)
  const inLibrary = new Map((await listAssets(context, owner)).map((asset) => [asset.name, asset]))
  const scanned: ScannedFile[] = []
  const memory: Record<string, Known> = {}
  for (const { file, name, type } of await filesOf(folder)) {
    signal?.throwIfAborted()
    const place = path.join(folder, file)
    const { ino, mtimeMs, size } = await stat(place)
    const signature = [size, mtimeMs, ino, context.model].join(' ')
    const there = inLibrary.get(name)
    const before = known[place]
    const isSame = before?.signature === signature && (before.reason !== null || there?.type === type)
    const reason = isSame
      ? before.reason
      : await take(context, { accountId: owner.id, type, name, path: place, isPublic: true, signal }, there ?? null)
    memory[place] = { signature, reason }
    scanned.push({ file, reason })
  }
  await writeMemory(memoryFile, { ...known, ...memory })
  return scanned
}

/** Scan several folders and log what could not be taken. Throws as {@link scanPublicFolder} does. */
export async function scanPublicFolders(
  context: LibraryContext & { readonly log: Logger },
  folders: readonly string[],
  signal?: AbortSignal,
): Promise<void> {
  const memoryFile = path.join(context.settings.cacheDir, 'public-assets.json')
  for (const folder of folders) {
    const scanned = await scanPublicFolder(context, folder, memoryFile, signal)
    for (const { file, reason } of scanned)
      if (reason !== null) context.log.warn({ folder, file, reason }, 'a file is left out of the public library')
    context.log.info({ folder, files: scanned.length }, 'the public library was looked through')
  }
}

type Taken = Parameters<typeof addAsset>[1]

/** Put one file into the library, in place of what has its name there; returns why it cannot be. */
async function take(
  context: LibraryContext,
  added: Taken,
  there: { readonly id: string; readonly hash: string | null; readonly type: AssetType; readonly name: string } | null,
): Promise<string | null> {
  if (!namePattern.test(added.name)) return 'its name must be 1 to 64 letters, digits, _ and -'
  if (there?.type === added.type && there.hash === (await hashOf(added.path))) return null
  try {
    if (there) await removeAsset(context, { id: added.accountId, name: added.name }, there.id)
    await addAsset(context, added)
    return null
  } catch (error) {
    if (!(error instanceof AppError) || !['bad_argument', 'bad_file', 'too_large', 'unsupported'].includes(error.code))
      throw error
    return error.message
  }
}

async function filesOf(folder: string): Promise<{ file: string; name: string; type: AssetType }[]> {
  const found: { file: string; name: string; type: AssetType }[] = []
  for (const type of types) {
    let names: string[]
    try {
      names = await readdir(path.join(folder, type))
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'ENOENT') continue
      throw new AppError('bad_argument', `public assets: cannot read ${path.join(folder, type)} (${code})`, {
        cause: error,
      })
    }
    for (const file of names.sort()) {
      const { ext, name } = path.parse(file)
      if (endings.has(ext)) found.push({ file: path.join(type, file), name, type })
    }
  }
  return found
}

async function hashOf(file: string): Promise<string> {
  const hash = createHash('sha256')
  await pipeline(createReadStream(file, { highWaterMark: 1 << 20 }), hash)
  return hash.digest('hex')
}

/** What earlier starts read; nothing where there was none, or where it is no longer understood: it only saves time. */
async function readMemory(file: string): Promise<Readonly<Record<string, Known>>> {
  try {
    const read: unknown = JSON.parse(await readFile(file, 'utf8'))
    return isMemory(read) ? read : {}
  } catch (error) {
    if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code === 'ENOENT') return {}
    throw error
  }
}

function isMemory(value: unknown): value is Record<string, Known> {
  return (
    typeof value === 'object' &&
    value !== null &&
    Object.values(value).every((known: unknown) => typeof known === 'object' && known !== null && 'signature' in known)
  )
}

async function writeMemory(file: string, memory: Readonly<Record<string, Known>>): Promise<void> {
  const part = `${file}.part`
  await writeFile(part, JSON.stringify(memory), { mode: 0o600 })
  await rename(part, file)
}
