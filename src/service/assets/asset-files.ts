// Files of assets on this machine, for engines that read them in place: those of a store on this disk where they lie, those
// of a bucket in a cache folder under their content's hash.
import { createHash, randomBytes } from 'node:crypto'
import { mkdir, readdir, rename, rm, stat, utimes, writeFile } from 'node:fs/promises'
import path from 'node:path'
import type { ContentHash } from '#worker/protocol.ts'
import { AppError } from '../../errors.ts'
import type { BlobStore } from '../files/blob-store.ts'
import type { StoredFile } from './asset-blobs.ts'

/** What keeping files at hand needs of the surroundings. */
export type AssetFilesContext = {
  readonly blobs: BlobStore
  /** The folder of everything that can be fetched again. */
  readonly cacheDir: string
  /** Bytes that fetched files may take together. */
  readonly cacheLimitBytes: number
}

/** A file may be opened some time after its place was told; as long as this it is not evicted. */
const heldMs = 10 * 60 * 1000
const partPattern = /\.part$/

/** Files of assets as places on this machine. */
export class AssetFiles {
  readonly #context: AssetFilesContext
  readonly #folder: string
  /** Hash → the fetching that is under way. */
  readonly #fetching = new Map<ContentHash, Promise<string>>()

  constructor(context: AssetFilesContext) {
    this.#context = context
    this.#folder = path.join(context.cacheDir, 'assets')
  }

  /** Where a file lies on this machine, fetched if need be. Throws `storage_unavailable`, `disk_full`, `internal`. */
  async placeOf(file: Pick<StoredFile, 'hash' | 'key'>): Promise<string> {
    const place = this.#context.blobs.placeOf(file.key)
    if (place !== null) return place
    const { hash } = file
    const fetching = this.#fetching.get(hash) ?? this.#fetched(file).finally(() => this.#fetching.delete(hash))
    this.#fetching.set(hash, fetching)
    return fetching
  }

  async #fetched({ hash, key }: Pick<StoredFile, 'hash' | 'key'>): Promise<string> {
    const place = path.join(this.#folder, hash)
    const now = new Date()
    try {
      // The time of its last use, by which files are evicted.
      await utimes(place, now, now)
      return place
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    }
    const part = path.join(this.#folder, `${hash}-${randomBytes(6).toString('hex')}.part`)
    try {
      await mkdir(this.#folder, { recursive: true, mode: 0o700 })
      await writeFile(part, checked(await this.#chunks(key), hash), { flag: 'wx', mode: 0o600 })
      await rename(part, place)
    } catch (error) {
      await rm(part, { force: true })
      if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
      throw new AppError('disk_full', `cache folder ${this.#folder}: no space is left`, { cause: error })
    }
    await this.#evict(hash)
    return place
  }

  async #chunks(key: string): Promise<AsyncIterable<Uint8Array>> {
    const chunks = await this.#context.blobs.read(key)
    if (!chunks) throw new AppError('internal', `the file ${key} of an asset is not stored`)
    return chunks
  }

  /** Remove the files that were not used for longest until the others fit, and what ended processes left half fetched. */
  async #evict(newest: ContentHash): Promise<void> {
    const entries: { place: string; sizeBytes: number; usedMs: number; isPart: boolean }[] = []
    for (const name of await readdir(this.#folder)) {
      const place = path.join(this.#folder, name)
      const found = await stat(place).catch(() => null)
      if (found && name !== newest)
        entries.push({ place, sizeBytes: found.size, usedMs: found.mtimeMs, isPart: partPattern.test(name) })
      else if (found) entries.push({ place, sizeBytes: found.size, usedMs: Infinity, isPart: false })
    }
    let totalBytes = entries.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
    entries.sort((a, b) => a.usedMs - b.usedMs)
    for (const { place, sizeBytes, usedMs, isPart } of entries) {
      if (usedMs > Date.now() - heldMs) break
      if (!isPart && totalBytes <= this.#context.cacheLimitBytes) continue
      await rm(place, { force: true })
      totalBytes -= sizeBytes
    }
  }
}

/** The same bytes, refused at their end when they are not those of `hash`. */
async function* checked(chunks: AsyncIterable<Uint8Array>, hash: ContentHash): AsyncGenerator<Uint8Array> {
  const found = createHash('sha256')
  for await (const chunk of chunks) {
    found.update(chunk)
    yield chunk
  }
  if (found.digest('hex') !== hash)
    throw new AppError('storage_unavailable', 'the file store gave back other bytes than were stored')
}
