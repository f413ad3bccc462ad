// A model as diffusers saves it: a folder with model_index.json and one folder a network, each with its config.json.
import { join } from 'node:path'
import { AppError } from '../../errors.ts'
import { checkpointKind } from './checkpoint-kind.ts'
import type { Checkpoint, Component, ComponentName, TokenizerData } from './checkpoint.ts'
import type { ClipTextConfig } from '../models/clip-text-config.ts'
import { checkEosToken, clipTextConfigOf } from './clip-text-options.ts'
import { flag, unsupported, type Options } from './config-options.ts'
import { expectedClipTextTensors, expectedUNetTensors, expectedVaeTensors } from './expected-tensors.ts'
import { readFolderWeights } from './folder-weights.ts'
import { readJson, readOptionalJson } from './json-file.ts'
import type { KeyMap } from './ldm-keys.ts'
import { folderVaeKeys } from './ldm-vae.ts'
import { matchWeights, type FoundTensor } from './match-weights.ts'
import { schedulerConfigOf } from './scheduler-options.ts'
import { readTokenizer } from './tokenizer-files.ts'
import { unetConfigOf } from './unet-options.ts'
import { vaeConfigOf } from './vae-options.ts'

/** Pipelines whose networks are those of Stable Diffusion XL. */
const pipelines = ['', 'Img2Img', 'Inpaint'].map((name) => `StableDiffusionXL${name}Pipeline`)

/** Open a diffusers folder. Throws `model_not_found`, `bad_file`, `wrong_architecture` or `missing_tensors`. */
export async function openDiffusersFolder(path: string): Promise<Checkpoint> {
  const index = await readModelIndex(path)
  if (!pipelines.some((name) => name === index.values['_class_name']))
    throw unsupported(index, '_class_name', `supported: ${pipelines.join(', ')}`)
  const first = classOf(index, 'text_encoder', 'CLIPTextModel') ? await readText(path, 'textEncoder') : null
  need(index, 'text_encoder_2', 'CLIPTextModelWithProjection')
  const second = await readText(path, 'textEncoder2')
  need(index, 'unet', 'UNet2DConditionModel')
  const unet = await readUNet(path)
  const vae = classOf(index, 'vae', 'AutoencoderKL') ? await readVae(path) : null
  const networks = { textEncoder: first?.component ?? null, textEncoder2: second.component, unet, vae }
  const schedulerFile = join(path, 'scheduler/scheduler_config.json')
  return {
    path,
    layout: 'diffusers',
    kind: checkpointKind(path, networks),
    ...networks,
    tokenizer: first?.tokenizer ?? null,
    tokenizer2: second.tokenizer,
    scheduler: schedulerConfigOf({ file: schedulerFile, values: await readJson(schedulerFile) }),
    forceZerosForEmptyPrompt: flag(index, 'force_zeros_for_empty_prompt', true),
  }
}

/** A folder's model_index.json; throws `model_not_found` when there is none, with a word about what the folder is. */
export async function readModelIndex(path: string): Promise<Options> {
  const file = join(path, 'model_index.json')
  const values = await readOptionalJson(file)
  if (values === null) {
    const config = await readOptionalJson(join(path, 'config.json'))
    const found =
      config === null ? '' : ` (it is one network alone: ${String(config['_class_name'] ?? config['model_type'])})`
    throw new AppError('model_not_found', `folder ${path} is no diffusers model: model_index.json is missing${found}`)
  }
  return { file, values }
}

/** Whether the model has a component; one of another class than the given is an error. */
function classOf(index: Options, key: string, name: string): boolean {
  const value = index.values[key]
  if (value === undefined || value === null) return false
  const found: unknown = Array.isArray(value) ? value[1] : value
  if (found === null) return false
  if (found !== name) throw unsupported(index, key, `supported: ${name}`)
  return true
}

function need(index: Options, key: string, name: string): void {
  if (!classOf(index, key, name)) throw unsupported(index, key, `needed: ${name}`)
}

async function options(path: string, folder: string): Promise<Options> {
  const file = join(path, folder, 'config.json')
  return { file, values: await readJson(file) }
}

/** transformers 5 leaves the prefix out of a CLIPTextModel's keys, other versions write it. */
const textKeys: KeyMap = (name) => [{ key: /^text_(model|projection)\./.test(name) ? name : `text_model.${name}` }]

async function readText(
  path: string,
  name: 'textEncoder' | 'textEncoder2',
): Promise<{ component: Component<ClipTextConfig>; tokenizer: TokenizerData }> {
  const second = name === 'textEncoder2'
  const folder = second ? 'text_encoder_2' : 'text_encoder'
  const tokenizer = await readTokenizer(join(path, second ? 'tokenizer_2' : 'tokenizer'))
  const read = await options(path, folder)
  const config = clipTextConfigOf(read, second)
  checkEosToken(read, tokenizer)
  if (tokenizer.vocab.size !== config.vocabSize)
    throw unsupported(read, 'vocab_size', `the tokenizer has ${tokenizer.vocab.size} tokens`)
  const found = (await readFolderWeights(join(path, folder), 'model')).filter(
    (tensor) => !/(^|\.)position_ids$/.test(tensor.name) && (second || tensor.name !== 'text_projection.weight'),
  )
  return { component: await component(name, config, found, textKeys, expectedClipTextTensors), tokenizer }
}

async function readUNet(path: string): Promise<Checkpoint['unet']> {
  const config = unetConfigOf(await options(path, 'unet'))
  const found = await readFolderWeights(join(path, 'unet'), 'diffusion_pytorch_model')
  return await component('unet', config, found, (key) => [{ key }], expectedUNetTensors)
}

async function readVae(path: string): Promise<NonNullable<Checkpoint['vae']>> {
  const config = vaeConfigOf(await options(path, 'vae'))
  const found = await readFolderWeights(join(path, 'vae'), 'diffusion_pytorch_model')
  return await component('vae', config, found, folderVaeKeys, expectedVaeTensors)
}

async function component<Config>(
  name: ComponentName,
  config: Config,
  found: readonly FoundTensor[],
  map: KeyMap,
  expected: (config: Config) => ReadonlyMap<string, readonly number[]>,
): Promise<Component<Config>> {
  return { name, config, weights: await matchWeights(name, found, map, expected(config)) }
}
