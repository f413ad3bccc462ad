// One upload looked into: weights in an engine process of its own, which ends with the inspection, pictures by their
// headers. The server itself never reads more of a stranger's file than its bytes.
import { createReadStream } from 'node:fs'
import { rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { EngineProcess } from '#worker/engine-process.ts'
import type { EngineSettings } from '#worker/protocol.ts'
import { probePicture } from '#image/probe.ts'
import { AppError, errorTable } from '../../errors.ts'
import type { BlobStore } from '../files/blob-store.ts'
import { inspectedKind, uploadLimitBytes, type Asset } from './asset.ts'
import type { StoredFile } from './asset-blobs.ts'
import type { Verdict } from './end-inspection.ts'
import { storeUpload } from './receive-upload.ts'

/** What looking into files needs of the surroundings. */
export type InspectContext = {
  readonly blobs: BlobStore
  readonly settings: Omit<EngineSettings, 'scratchDir'>
  /** The model that the deployment serves. */
  readonly model: string
  /** Another engine program than worker/main.ts. */
  readonly engineEntry?: URL | undefined
}

/**
 * Say whether the file at `place`, which lies in the store as `stored`, is what its asset says. A file that was converted
 * is stored under another key. Throws what is neither the file's nor the engine's fault, such as a store that does not answer.
 */
export async function inspectFile(
  context: InspectContext,
  asset: Pick<Asset, 'type' | 'data'>,
  stored: StoredFile,
  place: string,
  signal: AbortSignal,
): Promise<Verdict> {
  const { blobs, engineEntry, model, settings } = context
  const kind = inspectedKind(asset.type, asset.data)
  if (kind === null) return plainFile(blobs, asset, stored)
  try {
    await using engine = await EngineProcess.start(settings, { signal, entry: engineEntry })
    const output = path.join(engine.scratchDir, 'converted.safetensors')
    const report = await engine.inspectAsset({ path: place, output, kind, checkpoint: model }, { signal })
    if (!report.converted) return { status: 'ready', file: stored, report }
    const file = await storeUpload({ blobs }, createReadStream(output), 2 * uploadLimitBytes(asset.type))
    await rm(output)
    return { status: 'ready', file, report }
  } catch (error) {
    return verdictOf(error, signal, place)
  }
}

/** What an engine's error says of the file. Rethrows what says nothing of it. */
function verdictOf(error: unknown, signal: AbortSignal, place: string): Verdict {
  if (!(error instanceof AppError) || signal.aborted) throw error
  const { code, message } = error
  if (errorTable[code].status !== 422 || errorTable[code].retryable) throw error
  return { status: 'rejected', reason: withoutPath(message, place) }
}

/** The words of an error without the place where this machine keeps the file. */
function withoutPath(message: string, place: string): string {
  return message
    .replaceAll(place, 'the file')
    .replaceAll(/\s+/g, ' ')
    .toWellFormed()
    .replaceAll('\0', '�')
    .slice(0, 2000)
}

/** Pictures must be what their format says; other plain files are kept as they are. */
async function plainFile(blobs: BlobStore, { data }: Pick<Asset, 'data'>, file: StoredFile): Promise<Verdict> {
  const format = data.fileFormat === 'jpg' ? 'jpeg' : data.fileFormat
  if (format !== 'png' && format !== 'jpeg') return { status: 'ready', file, report: null }
  const bytes = await blobs.get(file.key)
  if (!bytes) throw new AppError('internal', `the upload ${file.key} is not stored`)
  try {
    const { format: found } = probePicture(bytes, 'the file')
    if (found === format) return { status: 'ready', file, report: null }
    return { status: 'rejected', reason: `the file is a ${found} picture, not ${format}` }
  } catch (error) {
    if (!(error instanceof AppError)) throw error
    return { status: 'rejected', reason: error.message }
  }
}

/** The size of a file of this machine. Throws `bad_argument` where there is none. */
export async function fileSize(place: string): Promise<number> {
  const found = await stat(place).catch((error: NodeJS.ErrnoException) => error)
  if (found instanceof Error) throw new AppError('bad_argument', `file ${place}: cannot be read (${found.code})`)
  if (!found.isFile()) throw new AppError('bad_argument', `file ${place}: is no file`)
  return found.size
}
