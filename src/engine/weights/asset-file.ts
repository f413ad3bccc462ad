// An upload, once it is safetensors: whether it is what its owner says, whether it can be used whole, and what there is
// to tell of it. A file has to fit the model that the deployment serves or the standard Stable Diffusion XL.
import { isFloatDType, type DType } from '#tensor/dtype.ts'
import { openSafetensors, type SafetensorsFile } from '#tensor/safetensors.ts'
import { elementCount } from '#tensor/tensor.ts'
import { AppError } from '../../errors.ts'
import { vaeScaleFactor } from '../models/vae-config.ts'
import type { AssetDataType, AssetKind, AssetReport } from './asset-report.ts'
import type { Checkpoint } from './checkpoint.ts'
import { recogniseControlNet } from './controlnet-file.ts'
import { describeArchitecture, describeVae } from './describe-networks.ts'
import { loraNetworksOf, standardSdxlNetworks } from './lora/lora-networks.ts'
import { describeMetadata } from './lora/lora-metadata.ts'
import { checkLoraValues } from './lora/lora-values.ts'
import { openLora } from './lora/open-lora.ts'
import { openCheckpoint } from './open-checkpoint.ts'
import { recognise } from './recognise.ts'
import { inversionWidthsOf, openTextualInversion, standardInversionWidths } from './textual-inversion.ts'
import { latentSpaceOf, openVaeFile, standardLatentSpace } from './vae-file.ts'

/** Opens the deployment's own model, once a file is worth it. */
type Served = () => Promise<Checkpoint>

type Described = Pick<AssetReport, 'architecture' | 'warnings' | 'details'>

const dataTypes: Readonly<Partial<Record<DType, AssetDataType>>> = { F32: 'fp32', F16: 'fp16', BF16: 'bf16' }

/**
 * Describe the safetensors file at `path`, which its owner calls a `kind`, for a deployment whose model `served` opens.
 * Throws `bad_file`, `wrong_architecture` or `missing_tensors` when it cannot be used whole.
 */
export async function describeAsset(
  path: string,
  kind: AssetKind,
  served: Served,
): Promise<Omit<AssetReport, 'fileFormat' | 'converted'>> {
  const file = await openSafetensors(path)
  const described = await describers[kind](file, served)
  const { thumbnail, triggerWords } = describeMetadata(file.metadata)
  return {
    kind,
    dataType: dataTypeOf(file),
    tensors: file.tensors.size,
    parameters: parametersOf(file),
    triggerWords,
    thumbnail: thumbnail && `data:${thumbnail.mediaType};base64,${Buffer.from(thumbnail.bytes).toString('base64')}`,
    ...described,
  }
}

const describers: Readonly<Record<AssetKind, (file: SafetensorsFile, served: Served) => Promise<Described>>> = {
  checkpoint: describeCheckpoint,
  controlnet: async (file) => ({
    architecture: 'a ControlNet for Stable Diffusion XL',
    warnings: [],
    details: { kind: 'controlnet', layout: recogniseControlNet(file.path, shapesOf(file)) },
  }),
  lora: describeLora,
  textual_inversion: describeInversion,
  vae: describeVaeFile,
}

async function describeCheckpoint({ metadata, path }: SafetensorsFile, served: Served): Promise<Described> {
  const { kind, scheduler, unet, vae } = await openCheckpoint(path, (await served()).tokenizer2)
  if (kind === 'refiner')
    throw new AppError(
      'wrong_architecture',
      `checkpoint ${path}: this is a refiner, which goes on from a base model and cannot start from text`,
    )
  return {
    architecture: describeArchitecture(kind, unet.config),
    warnings: [
      ...(vae ? [] : ['there is no VAE in the file: every request for it has to name one']),
      ...fewStepHint(metadata),
    ],
    details: {
      kind: 'checkpoint',
      model: kind,
      predictionType: scheduler.predictionType,
      vaeIncluded: vae !== null,
    },
  }
}

async function describeLora(file: SafetensorsFile, served: Served): Promise<Described> {
  const networks = [loraNetworksOf(await served()), standardSdxlNetworks()]
  const { fits, value } = await firstThatFits(
    networks.map((each) => () => openLora(file.path, each)),
    'LoRA',
    file,
  )
  // Its owner is to be told of NaN now, not whoever uses it.
  await checkLoraValues(value)
  const { baseModel, doraModules, families, modules, rank, tensorsPresent, tensorsUsed } = value.report
  return {
    architecture: `a LoRA for ${fits === 0 ? 'the model that is served' : 'Stable Diffusion XL'}`,
    warnings: fewStepHint(file.metadata),
    details: { kind: 'lora', baseModel, doraModules, families, modules, rank, tensorsPresent, tensorsUsed },
  }
}

async function describeInversion(file: SafetensorsFile, served: Served): Promise<Described> {
  const { fits, value } = await firstThatFits(
    [inversionWidthsOf(await served()), standardInversionWidths].map(
      (widths) => () => openTextualInversion(file.path, widths),
    ),
    'textual inversion',
    file,
  )
  return {
    architecture: `a textual inversion for ${fits === 0 ? 'the model that is served' : 'Stable Diffusion XL'}`,
    warnings: [],
    details: { kind: 'textual_inversion', vectors: value.first.length },
  }
}

async function describeVaeFile(file: SafetensorsFile, served: Served): Promise<Described> {
  const { path, vae } = await served()
  const spaces = [...(vae ? [latentSpaceOf(vae.config, `the model ${path}`)] : []), standardLatentSpace]
  const { value } = await firstThatFits(
    spaces.map((latents) => () => openVaeFile(file.path, latents)),
    'autoencoder (VAE)',
    file,
  )
  const { config } = value
  // Nothing in the weights tells the two apart; a file that says so itself is believed as far as a warning goes.
  const says = `${file.metadata['modelspec.architecture'] ?? ''} ${file.metadata['ss_base_model_version'] ?? ''}`
  const isOlder = /stable-diffusion-v[12]|sd_v[12]/.test(says)
  return {
    architecture: `an autoencoder (VAE), ${describeVae(config)}`,
    warnings: isOlder
      ? ['the file calls itself one of Stable Diffusion 1.x or 2.x, whose latents look alike and mean something else']
      : [],
    details: { kind: 'vae', latentChannels: config.latentChannels, scaleFactor: vaeScaleFactor(config) },
  }
}

/** Models that were distilled to few steps are like any other but in name; whoever calls itself so is told how to use it. */
function fewStepHint(metadata: SafetensorsFile['metadata']): string[] {
  const names = ['modelspec.title', 'modelspec.architecture', 'ss_output_name', 'ss_sd_model_name']
  const says = names.map((name) => metadata[name] ?? '').join(' ')
  const [, word] = /(?:^|[^a-z])(lightning|turbo|lcm|hyper|dmd2)(?:[^a-z]|$)/i.exec(says) ?? []
  if (word === undefined) return []
  const sampler = word.toLowerCase() === 'lcm' ? 'LCM' : 'K_EULER'
  return [`it calls itself ${word}: such models want few steps (1 to 8), a cfg of 1 to 2, and the sampler ${sampler}`]
}

/** The first of several ways to open a file that works; where none does, what it is or why the first one failed. */
async function firstThatFits<Value>(
  ways: readonly (() => Promise<Value>)[],
  wanted: string,
  file: SafetensorsFile,
): Promise<{ readonly fits: number; readonly value: Value }> {
  let reason: unknown
  for (const [fits, open] of ways.entries()) {
    try {
      return { fits, value: await open() }
    } catch (error) {
      if (!(error instanceof AppError) || !misfits.has(error.code)) throw error
      // The last way is the standard model, which says most to a stranger.
      reason = error
    }
  }
  const { family, words } = recognise(shapesOf(file))
  const isAnother = /^(a textual inversion|an autoencoder|a text encoder|a ControlNet)/.test(words)
  if (family === 'sdxl' || family === 'sdxl-unet' || (isAnother && !words.includes(wanted)))
    throw new AppError('wrong_architecture', `file ${file.path} is ${words}, not a ${wanted}`)
  throw reason
}

const misfits: ReadonlySet<string> = new Set(['wrong_architecture', 'missing_tensors'])

function shapesOf({ tensors }: SafetensorsFile): ReadonlyMap<string, readonly number[]> {
  return new Map([...tensors].map(([name, { shape }]) => [name, shape]))
}

function parametersOf({ tensors }: SafetensorsFile): number {
  let sum = 0
  for (const { shape } of tensors.values()) sum += elementCount(shape)
  return sum
}

/** The format of more than half of the parameters. */
function dataTypeOf({ tensors }: SafetensorsFile): AssetDataType {
  const counts = new Map<DType, number>()
  let total = 0
  for (const { dtype, shape } of tensors.values()) {
    if (!isFloatDType(dtype)) continue
    const count = elementCount(shape)
    counts.set(dtype, (counts.get(dtype) ?? 0) + count)
    total += count
  }
  const [dtype] = [...counts].find(([, count]) => count * 2 > total) ?? []
  return (dtype && dataTypes[dtype]) ?? 'mixed'
}
