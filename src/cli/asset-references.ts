// The options of `sepia generate` that name files of one's own: from text to places of files, checked; later, once there
// is an engine that reads other formats than safetensors, to content hashes.
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { open } from 'node:fs/promises'
import path from 'node:path'
import { pipeline } from 'node:stream/promises'
import type { EngineProcess } from '#worker/engine-process.ts'
import type { ContentHash, GenerateTask, TaskFiles } from '#worker/protocol.ts'
import type { Config } from '../config.ts'
import { AppError } from '../errors.ts'
import { locateAsset, type LibraryOptions } from './asset-places.ts'
import { numberFrom } from './option-values.ts'

/** The options about files of one's own, as typed. */
export type AssetOptions = LibraryOptions & {
  readonly lora?: readonly string[]
  readonly ti?: readonly string[]
  readonly vae?: string
}

/** What the options name, with the place of each file. */
export type NamedAssets = {
  readonly loras: readonly { readonly file: string; readonly scale: number }[]
  readonly textualInversions: readonly { readonly file: string; readonly trigger: string }[]
  readonly vae: string | null
}

/** The parts of a task and of its files that {@link readAssets} fills. */
export type TaskAssets = Pick<GenerateTask, 'loras' | 'textualInversions' | 'vae'> & Pick<TaskFiles, 'assets'>

/** What an engine has to offer to read formats other than safetensors. */
export type AssetReader = Pick<EngineProcess, 'inspectAsset' | 'scratchDir'>

const largestScale = 100
const largestTrigger = 100

/** Check the options and find the files. Throws `bad_argument`, `not_found`. */
export async function nameAssets(options: AssetOptions, config: Config): Promise<NamedAssets> {
  // All texts first: a wrong number is told before a library is opened.
  const loras = (options.lora ?? []).map(parseLora)
  const inversions = (options.ti ?? []).map(parseInversion)
  checkTriggers(inversions.map(({ trigger }) => trigger))
  const locate = (option: string, kind: 'lora' | 'textual_inversion' | 'vae', reference: string) =>
    locateAsset({ option, kind, reference }, options, config)
  const named = { loras: [] as { file: string; scale: number }[], textualInversions: [] as InversionFile[] }
  for (const { reference, scale } of loras) named.loras.push({ file: await locate('--lora', 'lora', reference), scale })
  for (const { reference, trigger } of inversions)
    named.textualInversions.push({ file: await locate('--ti', 'textual_inversion', reference), trigger })
  const vae = options.vae === undefined ? null : await locate('--vae', 'vae', options.vae)
  return { ...named, vae }
}

type InversionFile = NamedAssets['textualInversions'][number]

/**
 * Hash the files; one that is no safetensors file is first converted by the engine, into its scratch folder. Throws the
 * reason why a file cannot be used.
 */
export async function readAssets(
  { loras, textualInversions, vae }: NamedAssets,
  engine: AssetReader,
  checkpoint: string,
): Promise<TaskAssets> {
  const assets: Record<ContentHash, string> = {}
  const read = async (kind: 'lora' | 'textual_inversion' | 'vae', file: string): Promise<ContentHash> => {
    const place = await asSafetensors(kind, file, engine, checkpoint, Object.keys(assets).length)
    const hash = await hashOf(place)
    assets[hash] = place
    return hash
  }
  const task = { loras: [] as GenerateTask['loras'][number][], textualInversions: [] as TaskInversion[] }
  for (const { file, scale } of loras) {
    const asset = await read('lora', file)
    if (task.loras.some((other) => other.asset === asset))
      throw new AppError('bad_argument', `--lora must name a file once, got ${file} again`)
    task.loras.push({ asset, scale })
  }
  for (const { file, trigger } of textualInversions)
    task.textualInversions.push({ asset: await read('textual_inversion', file), trigger })
  return { ...task, vae: vae === null ? null : await read('vae', vae), assets }
}

type TaskInversion = GenerateTask['textualInversions'][number]

/** A reference, and after a colon how strongly, else 1. */
function parseLora(text: string): { reference: string; scale: number } {
  const match = /^(.+):([+-]?(?:\d+\.?\d*|\.\d+))$/s.exec(text)
  if (!match) return { reference: checkedReference('--lora', text), scale: 1 }
  return {
    reference: checkedReference('--lora', match[1]),
    scale: numberFrom('--lora: the weight', match[2], -largestScale, largestScale),
  }
}

/** A reference, an equals sign, and the word that stands for the vectors. */
function parseInversion(text: string): { reference: string; trigger: string } {
  const at = text.lastIndexOf('=')
  const trigger = at === -1 ? '' : text.slice(at + 1).trim()
  if (at < 1 || trigger === '') throw new AppError('bad_argument', `--ti must be FILE=WORD or NAME=WORD, got "${text}"`)
  const { length } = Array.from(trigger)
  if (length > largestTrigger || !trigger.isWellFormed() || /[\0\n\r]/.test(trigger))
    throw new AppError('bad_argument', `--ti: the word must be one line of 1 to ${largestTrigger} characters`)
  return { reference: checkedReference('--ti', text.slice(0, at)), trigger }
}

function checkedReference(option: string, text: string): string {
  if (text === '' || text.includes('\0'))
    throw new AppError('bad_argument', `${option} must name a file or an asset, got "${text}"`)
  return text
}

function checkTriggers(triggers: readonly string[]): void {
  const lower = triggers.map((trigger) => trigger.toLowerCase())
  const again = triggers.find((_, index) => lower.indexOf(lower[index]) !== index)
  if (again !== undefined)
    throw new AppError('bad_argument', `--ti must give each inversion a word of its own, got "${again}" twice`)
}

async function asSafetensors(
  kind: 'lora' | 'textual_inversion' | 'vae',
  file: string,
  engine: AssetReader,
  checkpoint: string,
  index: number,
): Promise<string> {
  if (await looksLikeSafetensors(file)) return file
  const output = path.join(engine.scratchDir, `converted-${index}.safetensors`)
  const report = await engine.inspectAsset({ path: file, output, kind, checkpoint })
  return report.converted ? output : file
}

/** Whether a file begins as a safetensors file does: the length of its header and a brace. */
async function looksLikeSafetensors(file: string): Promise<boolean> {
  await using handle = await open(file)
  const { bytesRead, buffer } = await handle.read(Buffer.alloc(9), 0, 9, 0)
  return bytesRead === 9 && buffer[8] === 0x7b && buffer.readUInt32LE(4) === 0
}

/** SHA-256 of a file's bytes. */
async function hashOf(file: string): Promise<ContentHash> {
  const hash = createHash('sha256')
  await pipeline(createReadStream(file, { highWaterMark: 1 << 20 }), hash)
  return hash.digest('hex')
}
