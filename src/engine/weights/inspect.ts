// What a model file or folder is, as plain data for people and programs. Whatever can be described is, also when it
// is no model that Sepia can run; only files that cannot be read are errors.
import { readdir, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { dtypeBits, type DType } from '#tensor/dtype.ts'
import { openSafetensors, type SafetensorsEntry } from '#tensor/safetensors.ts'
import { elementCount } from '#tensor/tensor.ts'
import { AppError } from '../../errors.ts'
import type { Checkpoint, CheckpointKind, Component, ComponentName, SchedulerConfig } from './checkpoint.ts'
import { describeArchitecture, describeClipText, describeUNet, describeVae } from './describe-networks.ts'
import { isDirectory } from './folder-weights.ts'
import { readModelIndex } from './diffusers-folder.ts'
import { MissingTensorsError } from './match-weights.ts'
import { openCheckpoint } from './open-checkpoint.ts'
import { recognise } from './recognise.ts'

/** Number format → how many parameters are stored in it. */
export type ParametersByDType = Readonly<Partial<Record<DType, number>>>

/** One network of a model. */
export type InspectedComponent = {
  readonly name: ComponentName
  readonly parameters: number
  readonly sizeBytes: number
  readonly dtypes: ParametersByDType
  /** The configuration in words. */
  readonly summary: string
}

/** What is known about a file or folder without reading its weights. */
export type InspectReport = {
  readonly path: string
  readonly layout: 'single-file' | 'diffusers'
  /** In words, such as "Stable Diffusion XL" or "a LoRA …". */
  readonly architecture: string
  /** Whether Sepia can make pictures with it. */
  readonly usable: boolean
  readonly kind: CheckpointKind | null
  readonly predictionType: SchedulerConfig['predictionType'] | null
  readonly zeroTerminalSnr: boolean | null
  /** Bytes of all weight files. */
  readonly sizeBytes: number
  readonly parameters: number
  readonly dtypes: ParametersByDType
  /** Empty when the file cannot be used as a model. */
  readonly components: readonly InspectedComponent[]
  /** Null where it makes no sense to ask. */
  readonly vaeIncluded: boolean | null
  /** Tokens of the vocabulary. */
  readonly vocabularySize: number | null
  /** Tensors that a usable model would need, under diffusers' keys, and "vae" for a whole one. */
  readonly missing: readonly string[]
  /** The name that the file gives itself. */
  readonly title: string | null
}

/** Describe the model at `path`. Throws `model_not_found` when nothing is there and `bad_file` when it is damaged. */
export async function inspectFile(path: string): Promise<InspectReport> {
  const absolute = resolve(path)
  const basics = (await isDirectory(absolute)) ? await folderBasics(absolute) : await fileBasics(absolute)
  try {
    const checkpoint = await openCheckpoint(absolute)
    return { ...basics, ...modelReport(checkpoint) }
  } catch (error) {
    if (!(error instanceof AppError)) throw error
    const missing = error instanceof MissingTensorsError ? error.missing : []
    return { ...basics, ...unusable, missing }
  }
}

type Basics = Pick<InspectReport, 'path' | 'layout' | 'architecture' | 'sizeBytes' | 'parameters' | 'dtypes' | 'title'>

const unusable = {
  usable: false,
  kind: null,
  predictionType: null,
  zeroTerminalSnr: null,
  components: [],
  vaeIncluded: null,
  vocabularySize: null,
} as const

async function fileBasics(path: string): Promise<Basics> {
  const { size, tensors, metadata } = await openSafetensors(path)
  const { words } = recognise(new Map([...tensors].map(([name, { shape }]) => [name, shape])))
  return {
    path,
    layout: 'single-file',
    architecture: words,
    sizeBytes: size,
    ...count(tensors.values()),
    title: metadata['modelspec.title'] ?? null,
  }
}

async function folderBasics(path: string): Promise<Basics> {
  const { _class_name: name } = (await readModelIndex(path)).values
  const entries = await readdir(path, { withFileTypes: true })
  const folders = entries.filter((entry) => entry.isDirectory() || entry.isSymbolicLink())
  let sizeBytes = 0
  for (const folder of folders) {
    if (!(await isDirectory(join(path, folder.name)))) continue
    const files = (await readdir(join(path, folder.name))).filter((file) => file.endsWith('.safetensors'))
    for (const file of files) sizeBytes += (await stat(join(path, folder.name, file))).size
  }
  const architecture = `a diffusers folder of ${typeof name === 'string' ? name : 'an unnamed pipeline'}`
  return { path, layout: 'diffusers', architecture, sizeBytes, parameters: 0, dtypes: {}, title: null }
}

function modelReport(checkpoint: Checkpoint): Omit<InspectReport, 'path' | 'layout' | 'sizeBytes' | 'title'> {
  const { textEncoder, textEncoder2, unet, vae, scheduler } = checkpoint
  const components = [
    ...(textEncoder ? [inspectComponent(textEncoder, describeClipText(textEncoder.config))] : []),
    inspectComponent(textEncoder2, describeClipText(textEncoder2.config)),
    inspectComponent(unet, describeUNet(unet.config)),
    ...(vae ? [inspectComponent(vae, describeVae(vae.config))] : []),
  ]
  return {
    architecture: describeArchitecture(checkpoint.kind, unet.config),
    usable: true,
    kind: checkpoint.kind,
    predictionType: scheduler.predictionType,
    zeroTerminalSnr: scheduler.rescaleBetasZeroSnr,
    parameters: components.reduce((sum, component) => sum + component.parameters, 0),
    dtypes: sumOf(components.map(({ dtypes }) => dtypes)),
    components,
    vaeIncluded: vae !== null,
    vocabularySize: checkpoint.tokenizer2.vocab.size,
    missing: vae === null ? ['vae'] : [],
  }
}

function inspectComponent({ name, weights }: Component<unknown>, summary: string): InspectedComponent {
  const counted = count(weights.values())
  const sizeBytes = Object.entries(counted.dtypes).reduce(
    (sum, [dtype, parameters]) => sum + (parameters * dtypeBits[dtype as DType]) / 8,
    0,
  )
  return { name, ...counted, sizeBytes, summary }
}

function sumOf(counts: readonly ParametersByDType[]): ParametersByDType {
  const sum: Partial<Record<DType, number>> = {}
  for (const dtypes of counts)
    for (const [dtype, parameters] of Object.entries(dtypes) as [DType, number][])
      sum[dtype] = (sum[dtype] ?? 0) + parameters
  return sum
}

function count(tensors: Iterable<Pick<SafetensorsEntry, 'dtype' | 'shape'>>): {
  parameters: number
  dtypes: ParametersByDType
} {
  const dtypes: Partial<Record<DType, number>> = {}
  let parameters = 0
  for (const { dtype, shape } of tensors) {
    const elements = elementCount(shape)
    dtypes[dtype] = (dtypes[dtype] ?? 0) + elements
    parameters += elements
  }
  return { parameters, dtypes }
}
