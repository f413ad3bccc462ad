// A large file into a folder, going on where an earlier try ended, and believed only when its hash is right.
import { createHash, type Hash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, open, rename, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { pipeline } from 'node:stream/promises'
import { AppError } from '../../../errors.ts'
import { failed, openRemote, type FetchRules } from './remote-file.ts'

/** What to download. */
export type Download = {
  readonly url: string
  /** Names the input in errors. */
  readonly field: string
  readonly token?: string | undefined
  readonly sizeBytes: number | null
  readonly sha256: string | null
  /** The file; until it is complete there is `<target>.part`, which must belong to this very content. */
  readonly target: string
  readonly onProgress?: (doneBytes: number) => void
}

/** Download, or finish what is there in part. Throws `fetch_failed`, `too_large`, `disk_full`, `bad_file`, `cancelled`. */
export async function downloadFile(
  download: Download,
  rules: FetchRules,
): Promise<{ sha256: string; sizeBytes: number }> {
  const { field, onProgress, sha256, sizeBytes, target } = download
  const part = `${target}.part`
  await mkdir(path.dirname(target), { recursive: true })
  const hash = createHash('sha256')
  let doneBytes = await hashPart(part, hash)
  if (sizeBytes !== null && doneBytes > sizeBytes) {
    await rm(part)
    return downloadFile(download, rules)
  }
  onProgress?.(doneBytes)
  let sum = hash
  if (sizeBytes === null || doneBytes < sizeBytes) {
    const received = await receive(download, rules, { part, hash, doneBytes })
    doneBytes = received.doneBytes
    sum = received.hash
  }
  const found = sum.digest('hex')
  if ((sizeBytes !== null && doneBytes !== sizeBytes) || (sha256 !== null && found !== sha256)) {
    // What is wrong stays wrong; the next try begins anew.
    await rm(part, { force: true })
    throw new AppError('bad_file', `${field}: ${path.basename(target)} arrived damaged; try again`, { field })
  }
  await rename(part, target)
  return { sha256: found, sizeBytes: doneBytes }
}

type Progress = { readonly part: string; readonly hash: Hash; readonly doneBytes: number }

async function receive(
  { field, onProgress, token, url }: Download,
  rules: FetchRules,
  { part, hash, doneBytes: before }: Progress,
): Promise<{ doneBytes: number; hash: Hash }> {
  await using remote = await openRemote({ url, field, token, fromByte: before }, rules)
  const isRest = remote.status === 206 && remote.headers['content-range']?.startsWith(`bytes ${before}-`) === true
  if (remote.status !== 200 && !isRest) throw failed(field, `its server answered with status ${remote.status}`)
  // A server that does not know ranges begins anew, and so do we.
  const sum = isRest ? hash : createHash('sha256')
  let doneBytes = isRest ? before : 0
  await using file = await open(part, isRest ? 'a' : 'w')
  try {
    for await (const chunk of remote.body) {
      await file.write(chunk)
      sum.update(chunk)
      doneBytes += chunk.length
      onProgress?.(doneBytes)
    }
    await file.sync()
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code !== 'ENOSPC' && code !== 'EDQUOT') throw error
    throw new AppError('disk_full', `${field}: no space left for ${part} (${code})`, { cause: error })
  }
  return { doneBytes, hash: sum }
}

/** Hash what is there already and tell its length. */
async function hashPart(part: string, hash: Hash): Promise<number> {
  try {
    const { size } = await stat(part)
    await pipeline(createReadStream(part), hash, { end: false })
    return size
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 0
    throw error
  }
}
