// The identity of weights: equal contents hash alike whatever file, layout or machine they are on. Per tensor SHA-256 of
// its stored bytes; per component SHA-256 over these and the resolved config; per model SHA-256 over its components.
import { createHash } from 'node:crypto'
import { readFile, realpath, rename, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { AppError } from '../../errors.ts'
import { cacheFault, makeFolder } from './cache-folder.ts'
import { withLock } from './cache-lock.ts'
import type { Component, ComponentName } from './checkpoint.ts'
import { inFileOrder, storedLength, streamTensors } from './tensor-stream.ts'

/** Raised when the resolved configs or key maps change their meaning, so that no remembered hash outlives that. */
const hashVersion = 1
/** Remembered hashes; the oldest go first. */
const indexLimit = 1000
const pieceBytes = 4 * 1024 * 1024

export type HashOptions = {
  /** Hashes are remembered here, in `hashes.json`; made when missing. */
  readonly cacheDir: string
  /** An existing folder on the same file system, for the half-written index. */
  readonly scratchDir: string
  /** Called after each piece that was read, with bytes; never when the hash was remembered. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void
}

/**
 * The content hash of a component, 64 hexadecimal digits: SHA-256 over the sorted lines `name dtype [shape] sha256` of its
 * tensors and the canonical JSON of its config. The first time all weights are read (about 1.5 GB/s); while the files are
 * the same (path, size, times, inode) the next call costs a few stat calls. A damaged index is made anew. Throws `bad_file`
 * when a file is gone, truncated, or changes meanwhile, `cache_unwritable` or `disk_full` for the index.
 */
export async function componentHash(component: Component<object>, options: HashOptions): Promise<string> {
  const key = await identityOf(component)
  const indexFile = path.join(options.cacheDir, 'hashes.json')
  try {
    const remembered = (await readIndex(indexFile)).get(key)
    if (remembered !== undefined) return remembered
    // Before the long reading, so that an unwritable folder is told at once.
    await makeFolder(path.resolve(options.cacheDir))
  } catch (error) {
    throw cacheFault(error, options.cacheDir)
  }
  const hash = await hashContents(component, options.onProgress)
  if ((await identityOf(component)) !== key)
    throw new AppError('bad_file', `${component.name}: its files were changed while they were read; try again`)
  try {
    await remember(indexFile, options.scratchDir, key, hash)
  } catch (error) {
    throw cacheFault(error, options.cacheDir)
  }
  return hash
}

/** The hash of a whole model from those of its components; their order does not matter, absent ones leave no trace. */
export function modelHash(componentHashes: Readonly<Partial<Record<ComponentName, string>>>): string {
  const lines = Object.entries(componentHashes).map(([name, hash]) => `${name} ${hash}`)
  return sha256(lines.sort().join('\n'))
}

/** JSON with sorted keys and no spaces, so that equal values give equal text. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_key, inner: unknown) =>
    inner !== null && typeof inner === 'object' && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  )
}

async function hashContents(component: Component<object>, onProgress: HashOptions['onProgress']): Promise<string> {
  const entries = inFileOrder(component.weights)
  const totalBytes = entries.reduce((sum, [, tensor]) => sum + storedLength(tensor), 0)
  const lines: string[] = []
  let doneBytes = 0
  let digest = createHash('sha256')
  for await (const { name, tensor, bytes, last } of streamTensors(entries, pieceBytes)) {
    digest.update(bytes)
    doneBytes += bytes.length
    onProgress?.(doneBytes, totalBytes)
    if (!last) continue
    lines.push(`${name} ${tensor.dtype} [${tensor.shape.join(',')}] ${digest.digest('hex')}`)
    digest = createHash('sha256')
  }
  return sha256(`${lines.sort().join('\n')}\n${canonicalJson(component.config)}`)
}

/** Changes whenever the hash could: the files as the system knows them, and where in them the component's tensors lie. */
async function identityOf(component: Component<object>): Promise<string> {
  const sources = [...component.weights.values()].map(({ source }) => source)
  const files = new Set(sources.flatMap((source) => ('file' in source ? [source.file] : [])))
  const identities = new Map<string, string>()
  for (const file of files) identities.set(file, await fileIdentity(file))
  const digest = createHash('sha256').update(`${hashVersion} ${component.name} ${canonicalJson(component.config)}\n`)
  for (const [name, { dtype, shape, source }] of [...component.weights].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const place =
      'file' in source ? `${identities.get(source.file)!} ${source.offset} ${source.length}` : sha256(source.bytes)
    digest.update(`${name} ${dtype} [${shape.join(',')}] ${place}\n`)
  }
  return digest.digest('hex')
}

async function fileIdentity(file: string): Promise<string> {
  try {
    const real = await realpath(file)
    const { size, mtimeNs, ctimeNs, ino } = await stat(real, { bigint: true })
    return `${real} ${size} ${mtimeNs} ${ctimeNs} ${ino}`
  } catch (error) {
    throw new AppError('bad_file', `${file}: cannot be read (${(error as NodeJS.ErrnoException).code})`, {
      cause: error,
    })
  }
}

/** A missing or damaged index is an empty one: what it held is computed again. */
async function readIndex(file: string): Promise<Map<string, string>> {
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return new Map()
    throw error
  }
  let entries: [string, unknown][]
  try {
    entries = Object.entries(JSON.parse(text) as object)
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof TypeError) return new Map()
    throw error
  }
  const isHash = (value: unknown): value is string => typeof value === 'string' && /^[0-9a-f]{64}$/.test(value)
  return new Map(entries.filter((entry): entry is [string, string] => isHash(entry[0]) && isHash(entry[1])))
}

/** Read, add, replace under a lock, so that two processes lose nothing of each other. */
async function remember(file: string, scratchDir: string, key: string, hash: string): Promise<void> {
  await withLock(file, scratchDir, async () => {
    const index = await readIndex(file)
    index.delete(key)
    index.set(key, hash)
    const kept = [...index].slice(-indexLimit)
    const scratch = path.join(scratchDir, path.basename(file))
    await writeFile(scratch, JSON.stringify(Object.fromEntries(kept), null, 1))
    await rename(scratch, file)
  })
}

function sha256(data: string | Uint8Array): string {
  return createHash('sha256').update(data).digest('hex')
}
