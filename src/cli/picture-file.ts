// Picture files that the command line names: read once, whatever they are (a pipe, too), and no further than the limit.
import { createHash } from 'node:crypto'
import { open } from 'node:fs/promises'
import path from 'node:path'
import type { ContentHash } from '#worker/protocol.ts'
import { AppError } from '../errors.ts'

/** An encoded picture in memory, and the name that tasks know it by. */
export type PictureFile = { readonly hash: ContentHash; readonly bytes: Uint8Array }

/** More than 4096×4096 pixels of any format take. */
const maxBytes = 128 * 2 ** 20

/** The bytes of the file that `option` names. Throws `bad_image` for one that cannot be read or is over 128 MiB. */
export async function readPictureFile(option: string, name: string): Promise<PictureFile> {
  const file = path.resolve(name)
  try {
    await using handle = await open(name === '' ? '' : file)
    const pieces: Uint8Array[] = []
    let size = 0
    for await (const piece of handle.createReadStream({ autoClose: false }) as AsyncIterable<Uint8Array>) {
      size += piece.length
      if (size > maxBytes)
        throw new AppError(
          'bad_image',
          `${option}: ${file} has more than ${maxBytes >> 20} MiB, too many for a picture`,
        )
      pieces.push(piece)
    }
    return pictureFile(Buffer.concat(pieces))
  } catch (error) {
    if (error instanceof AppError) throw error
    const code = error instanceof Error && 'code' in error ? String(error.code) : String(error)
    const reason = code === 'ENOENT' ? 'there is no such file' : code === 'EISDIR' ? 'it is a folder' : code
    throw new AppError('bad_image', `${option}: cannot read ${name === '' ? '""' : file}: ${reason}`, { cause: error })
  }
}

/** Encoded bytes under their hash. */
export function pictureFile(bytes: Uint8Array): PictureFile {
  return { hash: createHash('sha256').update(bytes).digest('hex'), bytes }
}
