// One upload in an engine process: what is it, and can it be used here? It was written by a stranger, so that nothing of
// it is believed but its bytes, and what is refused is refused in words for a stranger.
import { open, rm } from 'node:fs/promises'
import { resolve } from 'node:path'
import { cacheFault } from '#engine/weights/cache-folder.ts'
import { describeAsset } from '#engine/weights/asset-file.ts'
import type { AssetReport } from '#engine/weights/asset-report.ts'
import type { Checkpoint } from '#engine/weights/checkpoint.ts'
import { openCheckpoint } from '#engine/weights/open-checkpoint.ts'
import { convertTorchFile, openTorchFile } from '#tensor/torch-file.ts'
import { AppError } from '../errors.ts'
import type { AssetInspection } from './protocol.ts'

/** Names of values that are shown; a training checkpoint has a dozen. */
const shownNames = 5
/** Characters of a message: names of tensors may be long, and lists of them longer. */
const maxMessage = 1500

/**
 * Describe an upload, and convert it where it is no safetensors. Throws `bad_file`, `wrong_architecture`,
 * `missing_tensors` or `disk_full` with a reason for its owner, without any path of this machine; `output` is left only
 * where the upload was converted and can be used.
 */
export async function inspectAsset({ checkpoint, kind, output, path }: AssetInspection): Promise<AssetReport> {
  let isDone = false
  try {
    const fileFormat = await formatOf(path)
    const converted = fileFormat === 'pt'
    const leftOut = converted ? await convert(path, output) : []
    const report = await describeAsset(converted ? output : path, kind, () => openServed(checkpoint))
    isDone = true
    return withPlainTexts({ ...report, fileFormat, converted, warnings: [...report.warnings, ...leftOut] })
  } catch (error) {
    throw forStranger(error, { [path]: 'file', [output]: 'file', [resolve(checkpoint)]: 'model' })
  } finally {
    if (!isDone) await rm(output, { force: true })
  }
}

/** What is wrong with the deployment's own model is not the upload's fault. */
async function openServed(path: string): Promise<Checkpoint> {
  try {
    return await openCheckpoint(path)
  } catch (error) {
    if (!(error instanceof AppError)) throw error
    throw new AppError('internal', `the model that is served cannot be opened: ${error.message}`, { cause: error })
  }
}

async function convert(path: string, output: string): Promise<string[]> {
  const torch = await openTorchFile(path)
  try {
    await convertTorchFile(torch, output)
  } catch (error) {
    throw cacheFault(error, 'the scratch folder')
  }
  const { leftOut } = torch
  if (leftOut.length === 0) return []
  const more = leftOut.length > shownNames ? ` and ${leftOut.length - shownNames} more` : ''
  return [`values that are no weights were left out: ${leftOut.slice(0, shownNames).join(', ')}${more}`]
}

/** By the first bytes; whatever is no file of torch.save is held to be safetensors, whose reader says what it is. */
async function formatOf(path: string): Promise<AssetReport['fileFormat']> {
  const start = new Uint8Array(8)
  await using handle = await open(path, 'r')
  await handle.read(start, 0, start.length, 0)
  if (Buffer.from(start).toString('latin1').startsWith('PK\u0003\u0004')) return 'pt'
  // A header of safetensors that begins like a pickle's protocol is shorter than 2^56 bytes.
  if (start[0] === 0x80 && start[1] >= 2 && start[1] <= 5 && start[7] !== 0)
    throw new AppError(
      'bad_file',
      'the file is a pickle without an archive, as torch.save wrote before PyTorch 1.6; save it again as safetensors, or with a newer torch.save',
    )
  return 'safetensors'
}

/** A report holds words of the file, such as the names of its values: in a database or on a screen they are words and no more. */
function withPlainTexts(report: AssetReport): AssetReport {
  return JSON.parse(JSON.stringify(report), (_, value: unknown) =>
    typeof value === 'string' ? plainText(value) : value,
  ) as AssetReport
}

/** One line of whole characters, none of which controls what shows it. */
function plainText(text: string): string {
  return text.toWellFormed().replaceAll(/[\p{Cc}\p{Bidi_Control}]/gu, '\ufffd')
}

/** The same error in one short line without this machine's paths. */
function forStranger(error: unknown, paths: Readonly<Record<string, string>>): unknown {
  if (!(error instanceof AppError)) return error
  let { message } = error
  for (const [place, noun] of Object.entries(paths)) {
    const named = new RegExp(`\\b(the )?(textual inversion|\\w+) ${RegExp.escape(place)}`, 'g')
    message = message.replaceAll(named, (_, _article, kind: string) => `the ${kind}`)
    message = message.replaceAll(place, `the ${noun}`)
  }
  const short = message.length > maxMessage ? `${message.slice(0, maxMessage)}…` : message
  return new AppError(error.code, plainText(short), { cause: error, field: error.field })
}
