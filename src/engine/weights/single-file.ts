// A whole model in one safetensors file, under the names of Stability AI's generative-models. It has no configs:
// everything is read off names and shapes, and what those cannot tell is as in SDXL.
import { parse, join } from 'node:path'
import { openSafetensors, type SafetensorsFile } from '#tensor/safetensors.ts'
import { AppError } from '../../errors.ts'
import { checkpointKind, timeIdCounts } from './checkpoint-kind.ts'
import type { Checkpoint, Component, ComponentName, SchedulerConfig, TokenizerData } from './checkpoint.ts'
import { clipChunkLength } from './clip-text-options.ts'
import {
  expectedClipTextTensors,
  expectedUNetTensors,
  expectedVaeTensors,
  type ExpectedTensors,
} from './expected-tensors.ts'
import { readLdmClipText, readOpenClipText } from './ldm-clip-text.ts'
import { isDirectory } from './folder-weights.ts'
import type { KeyMap, Shapes } from './ldm-keys.ts'
import { readLdmUNet } from './ldm-unet.ts'
import { readLdmVae } from './ldm-vae.ts'
import { matchWeights, type FoundTensor } from './match-weights.ts'
import { recognise } from './recognise.ts'
import { sdxlSchedulerConfig } from './scheduler-options.ts'
import { readTokenizer, standardTokenizer, standardVocabSize } from './tokenizer-files.ts'

const prefixes = {
  unet: 'model.diffusion_model.',
  vae: 'first_stage_model.',
  clip: 'conditioner.embedders.0.transformer.',
  openClip: 'conditioner.embedders.1.model.',
  refinerClip: 'conditioner.embedders.0.model.',
} as const

/** What training leaves in files and inference does not read. */
const leftovers = [
  /^first_stage_model\.(loss|model_ema)\./,
  /\.embeddings\.position_ids$/,
  /^conditioner\.embedders\.\d+\.(model\.|transformer\.)?(logit_scale|attn_mask)$/,
  /^conditioner\.embedders\.0\.transformer\.text_projection(\.weight)?$/,
]

/**
 * Open a single file. Throws `model_not_found`, `bad_file`, `wrong_architecture` or `missing_tensors`. `given` is the
 * tokenizer of a file that has neither CLIP's vocabulary nor a tokenizer beside it, if it has as many tokens.
 */
export async function openSingleFile(path: string, given: TokenizerData | null = null): Promise<Checkpoint> {
  const file = await openSafetensors(path)
  const recognised = recognise(shapesOf(foundUnder(file, '')))
  if (recognised.family === 'sdxl-unet') throw new AppError('missing_tensors', `file ${path} is ${recognised.words}`)
  if (recognised.family !== 'sdxl')
    throw new AppError('wrong_architecture', `file ${path} is ${recognised.words}; supported: Stable Diffusion XL`)
  refuseUnknownEmbedders(file)

  // 1. text encoders: the refiner has OpenCLIP's alone, in the first place
  const clip = foundUnder(file, prefixes.clip)
  const openClipPrefix = clip.length > 0 ? prefixes.openClip : prefixes.refinerClip
  const openClip = foundUnder(file, openClipPrefix)
  const textEncoder =
    clip.length > 0
      ? await component('textEncoder', clip, readLdmClipText(shapesOf(clip)), expectedClipTextTensors)
      : null
  const textEncoder2 = await component(
    'textEncoder2',
    openClip,
    readOpenClipText(shapesOf(openClip), openClipPrefix),
    expectedClipTextTensors,
  )

  // 2. UNet and VAE
  const unetTensors = foundUnder(file, prefixes.unet)
  const conditioning = {
    pooledDim: textEncoder2.config.projectionDim ?? 0,
    timeIds: timeIdCounts[textEncoder === null ? 'refiner' : 'base'],
  }
  const unet = await component(
    'unet',
    unetTensors,
    readLdmUNet(shapesOf(unetTensors), conditioning),
    expectedUNetTensors,
  )
  const vaeTensors = foundUnder(file, prefixes.vae)
  const vae =
    vaeTensors.length > 0
      ? await component('vae', vaeTensors, readLdmVae(shapesOf(vaeTensors)), expectedVaeTensors)
      : null

  // 3. what belongs to no network
  const networks = { textEncoder, textEncoder2, unet, vae }
  const kind = checkpointKind(path, networks)
  for (const encoder of [textEncoder, textEncoder2])
    if (encoder && encoder.config.maxPositionEmbeddings !== clipChunkLength)
      throw new AppError(
        'wrong_architecture',
        `file ${path}: ${encoder.name} has ${encoder.config.maxPositionEmbeddings} positions, supported: ${clipChunkLength}`,
      )
  const tokenizer = await tokenizerOf(path, textEncoder2.config.vocabSize, given)
  return {
    path,
    layout: 'single-file',
    kind,
    ...networks,
    tokenizer: textEncoder === null ? null : { ...tokenizer, padTokenId: tokenizer.eosTokenId },
    tokenizer2: tokenizer,
    scheduler: schedulerOf(file),
    forceZerosForEmptyPrompt: kind !== 'refiner',
  }
}

/** The tensors under `prefix`, named without it; what training left behind is passed over. */
function foundUnder(file: SafetensorsFile, prefix: string): readonly FoundTensor[] {
  return [...file.tensors]
    .filter(([name]) => name.startsWith(prefix) && !leftovers.some((pattern) => pattern.test(name)))
    .map(([name, { dtype, shape, offset, length }]) => ({
      file: file.path,
      name: name.slice(prefix.length),
      dtype,
      shape,
      offset,
      length,
    }))
}

function shapesOf(tensors: readonly FoundTensor[]): Shapes {
  return new Map(tensors.map(({ name, shape }) => [name, shape]))
}

async function component<Config>(
  name: ComponentName,
  found: readonly FoundTensor[],
  { config, map }: { config: Config; map: KeyMap },
  expected: (config: Config) => ExpectedTensors,
): Promise<Component<Config>> {
  return { name, config, weights: await matchWeights(name, found, map, expected(config)) }
}

function refuseUnknownEmbedders(file: SafetensorsFile): void {
  const known = [prefixes.clip, prefixes.openClip, prefixes.refinerClip]
  const foreign = foundUnder(file, 'conditioner.').filter(
    ({ name }) => !known.some((prefix) => `conditioner.${name}`.startsWith(prefix)),
  )
  if (foreign.length > 0)
    throw new AppError(
      'wrong_architecture',
      `file ${file.path} has ${foreign.length} tensors of an unknown text encoder, the first is conditioner.${foreign[0].name}`,
    )
}

/**
 * CLIP's own tokenizer, or the one in a folder beside the file (`model.safetensors` → `model.tokenizer/`), for models
 * that were trained with another vocabulary. Padded as SDXL pads encoder 2: with token 0.
 */
async function tokenizerOf(path: string, vocabSize: number, given: TokenizerData | null): Promise<TokenizerData> {
  const { dir, name } = parse(path)
  const beside = join(dir, `${name}.tokenizer`)
  if (await isDirectory(beside)) {
    const tokenizer = await readTokenizer(beside)
    if (tokenizer.vocab.size !== vocabSize)
      throw new AppError(
        'wrong_architecture',
        `file ${path} has embeddings of ${vocabSize} tokens, the tokenizer ${beside} has ${tokenizer.vocab.size}`,
      )
    return { ...tokenizer, padTokenId: 0 }
  }
  if (vocabSize === standardVocabSize) return await standardTokenizer(0)
  if (given?.vocab.size !== vocabSize)
    throw new AppError(
      'wrong_architecture',
      `file ${path} has embeddings of ${vocabSize} tokens, CLIP's tokenizer has ${standardVocabSize}; a model with another one needs it in the folder ${beside}`,
    )
  return { ...given, padTokenId: 0 }
}

/**
 * SDXL's schedule, with the prediction type and the zero terminal SNR that marker tensors or metadata tell. Zero
 * terminal SNR needs the last timestep itself, so that steps are spaced from the end (arXiv 2305.08891, section 3.3).
 */
function schedulerOf(file: SafetensorsFile): SchedulerConfig {
  const { 'modelspec.prediction_type': told } = file.metadata
  const types = { epsilon: 'epsilon', eps: 'epsilon', v: 'v_prediction', v_prediction: 'v_prediction' } as const
  const type = told === undefined ? 'epsilon' : types[told.replaceAll('-', '_') as keyof typeof types]
  if (type === undefined)
    throw new AppError(
      'wrong_architecture',
      `file ${file.path}: modelspec.prediction_type is ${JSON.stringify(told)}, supported: epsilon, v`,
    )
  const zeroSnr = file.tensors.has('ztsnr')
  return {
    ...sdxlSchedulerConfig,
    predictionType: file.tensors.has('v_pred') ? 'v_prediction' : type,
    rescaleBetasZeroSnr: zeroSnr,
    ...(zeroSnr ? { timestepSpacing: 'trailing' } : {}),
  }
}
