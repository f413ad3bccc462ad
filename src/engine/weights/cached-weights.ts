// Files of weights in the cache folder, named by what they hold: made once, by whoever comes first, and mapped ever after.
import { open, type FileHandle } from 'node:fs/promises'
import type { SafetensorsLayout } from '#tensor/safetensors-writer.ts'
import { openSafetensors } from '#tensor/safetensors.ts'
import { AppError } from '../../errors.ts'
import type { GraphWeights, WeightDType, Weights } from './checkpoint.ts'
import { keptFile, type CacheOptions } from './kept-file.ts'

/** Part of every cached file's name: raised when the same checkpoint has to be prepared differently. */
export const WEIGHTS_VERSION = 1

/** Weights to compile a network from; dispose of them when the network is closed, so that their file may be evicted. */
export type PreparedWeights<W extends GraphWeights = Weights> = Disposable & { readonly weights: W }

/** What a file of the cache is to hold. */
export type CachedFile = {
  /** 64 hexadecimal digits that tell the contents. */
  readonly hash: string
  /** What the file's name says of its number format. */
  readonly dtype: WeightDType | 'I8'
  readonly layout: SafetensorsLayout
  /** What it is prepared from, for messages. */
  readonly name: string
}

/** The weights of a file of the cache whose tensors are all in its number format, see {@link cachedFile}. */
export async function cachedWeights(
  wanted: CachedFile & { readonly dtype: WeightDType },
  options: CacheOptions,
  write: (handle: FileHandle) => Promise<void>,
  freeBytes?: (folder: string) => Promise<number>,
): Promise<PreparedWeights> {
  const cached = await cachedFile(wanted, options, write, freeBytes)
  const weights: Weights = new Map(
    [...wanted.layout.tensors].map(([key, { shape, offset, length }]) => [
      key,
      { dtype: wanted.dtype, shape, source: { file: cached.file, offset, length } },
    ]),
  )
  return { weights, [Symbol.dispose]: () => cached[Symbol.dispose]() }
}

/**
 * The path of a file of the cache, which `write` makes where it is not there yet, while others wait. Map it soon:
 * another process may evict a file that was not used for ten seconds. `freeBytes` tells what the folder's disk has
 * left. Throws `disk_full`, `cache_unwritable` and whatever `write` throws.
 */
export async function cachedFile(
  { hash, dtype, layout, name }: CachedFile,
  options: CacheOptions,
  write: (handle: FileHandle) => Promise<void>,
  freeBytes?: (folder: string) => Promise<number>,
): Promise<Disposable & { readonly file: string }> {
  if (!/^[0-9a-f]{64}$/.test(hash)) throw new AppError('internal', `hash: "${hash}" is not 64 hexadecimal digits`)
  const fileName = `${hash}-${dtype}-v${WEIGHTS_VERSION}.safetensors`
  const isWhole = (file: string): Promise<boolean> => hasLayout(file, layout)
  return await keptFile(
    { fileName, sizeBytes: layout.size, purpose: `preparing the ${name}`, isWhole },
    options,
    async (scratch) => {
      await using handle = await open(scratch, 'w')
      await write(handle)
      await handle.datasync()
    },
    freeBytes,
  )
}

/** Whether a file holds exactly this layout. A damaged one is no error. */
async function hasLayout(file: string, layout: SafetensorsLayout): Promise<boolean> {
  try {
    const { size, tensors } = await openSafetensors(file)
    if (size !== layout.size || tensors.size !== layout.tensors.size) return false
    for (const [name, wanted] of layout.tensors) {
      const found = tensors.get(name)
      if (found?.dtype !== wanted.dtype || found.offset !== wanted.offset || found.length !== wanted.length)
        return false
      if (found.shape.join() !== wanted.shape.join()) return false
    }
    return true
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined
    if (code === 'model_not_found' || code === 'bad_file') return false
    throw error
  }
}
