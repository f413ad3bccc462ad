// The options of `sepia generate`, from text to one resolved order: each value checked, each default applied.
import { randomInt } from 'node:crypto'
import { statSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import path from 'node:path'
import { requireSteps, samplerNames } from '#diffusion/samplers.ts'
import { applyStyle, stylePresetNames, type StylePresetName } from '#diffusion/style-presets.ts'
import { backendNames, devices, precisions } from '#engine/backend.ts'
import type { EngineSettings, GenerateTask, TaskFiles } from '#worker/protocol.ts'
import { variableOf, type Config } from '../config.ts'
import { AppError } from '../errors.ts'
import type { AssetOptions } from './asset-references.ts'
import { openvinoFolders } from './backend-places.ts'
import { byteSize, numberAbove, numberFrom, oneOf, wholeNumber } from './option-values.ts'
import type { StartOptions } from './start-options.ts'

/** What commander hands over: text as typed, with the defaults that --help shows. */
export type EngineOptions = {
  readonly backend?: string
  readonly precision?: string
  readonly device: string
  readonly threads?: string
  readonly cache?: string
  readonly cacheLimit?: string
  readonly data?: string
}

/** The options of `sepia generate`, as typed. */
export type GenerateOptions = EngineOptions &
  StartOptions &
  AssetOptions & {
    readonly model?: string
    /** False for --no-refiner. */
    readonly refiner?: string | false
    readonly highNoiseFrac?: string
    readonly style?: string
    readonly negative?: string
    readonly prompt2?: string
    readonly negative2?: string
    readonly seed?: string
    readonly steps: string
    readonly cfg: string
    readonly sampler: string
    readonly num?: string
    readonly clipSkip?: string
    readonly output?: string
    readonly grid?: string
    readonly json?: boolean
    readonly verbose?: boolean
  }

/** Settings of an engine process, all but the scratch folder, which belongs to the process. */
export type EngineOrder = Omit<EngineSettings, 'scratchDir'>

const seedCount = 2 ** 32
const promptLimit = 10_000
const maxPictures = 16
const defaultHighNoiseFrac = '0.8'

/** Check the options that concern the machine rather than the picture. Throws `bad_argument`. */
export function resolveEngine(options: Partial<EngineOptions>, config: Config): EngineOrder {
  const { backend, precision, device = 'cpu', threads, cache, cacheLimit, data } = options
  // More threads than cores wait for each other in busy loops.
  const cores = availableParallelism()
  if (cache === '') throw new AppError('bad_argument', '--cache must be a folder, got ""')
  return {
    backend: typedOrSet('backend', backend, ['auto', ...backendNames], config),
    precision: typedOrSet('precision', precision, ['auto', ...precisions], config),
    device: oneOf('--device', device, devices),
    openvinoFolders: openvinoFolders({ ...config, ...(data !== undefined && { dataDir: path.resolve(data) }) }),
    threads: threads === undefined ? cores : wholeNumber('--threads', threads, 1, cores),
    cacheDir: cache === undefined ? config.cacheDir : path.resolve(cache),
    cacheLimitBytes: cacheLimit === undefined ? config.cacheLimitBytes : byteSize('--cache-limit', cacheLimit),
  }
}

/** One of `names`: as it was typed, else as its variable has it, else `auto`. */
function typedOrSet<Name extends string>(
  option: 'backend' | 'precision',
  typed: string | undefined,
  names: readonly (Name | 'auto')[],
  config: Config,
): Name | 'auto' {
  if (typed !== undefined) return oneOf(`--${option}`, typed, names)
  const set = config.service[option]
  return set === undefined ? 'auto' : oneOf(variableOf(option), set, names)
}

/** What `resolveTask` leaves to start-options.ts, asset-references.ts, the models and the place for the pictures. */
type OpenFields = 'start' | 'width' | 'height' | 'refiner' | 'imageEncoding' | 'loras' | 'textualInversions' | 'vae'

/** Check what is said of the pictures themselves. Throws `bad_argument`, `bad_prompt`. */
export function resolveTask(prompt: string, options: GenerateOptions): Omit<GenerateTask, OpenFields> {
  const sampler = oneOf('--sampler', options.sampler, samplerNames)
  const numInferenceSteps = wholeNumber('--steps', options.steps, 1, 200)
  requireSteps(sampler, numInferenceSteps)
  const texts = {
    prompt: checkedPrompt('PROMPT', prompt),
    prompt2: options.prompt2 === undefined ? null : checkedPrompt('--prompt-2', options.prompt2),
    negativePrompt: options.negative === undefined ? null : checkedPrompt('--negative', options.negative),
    negativePrompt2: options.negative2 === undefined ? null : checkedPrompt('--negative-2', options.negative2),
  }
  return {
    ...applyStyle(styleNamed(options.style ?? 'base'), texts),
    numInferenceSteps,
    guidanceScale: numberAbove('--cfg', options.cfg, 0, 50),
    sampler,
    seeds: resolveSeeds(options),
    clipSkip: options.clipSkip === undefined ? null : wholeNumber('--clip-skip', options.clipSkip, 1, 12),
    checkpoint: null,
    previews: false,
  }
}

function styleNamed(text: string): StylePresetName {
  const found = stylePresetNames.find((name) => name.toLowerCase() === text.toLowerCase())
  if (found !== undefined) return found
  throw new AppError(
    'bad_argument',
    `--style must be one of the ${stylePresetNames.length} that "sepia styles" lists, got "${text}"`,
  )
}

/** One seed a picture: those of a list, else the given or a random one and those that follow it. */
function resolveSeeds({ num, seed }: GenerateOptions): readonly number[] {
  const count = num === undefined ? null : wholeNumber('--num', num, 1, maxPictures)
  const isSeed = (text: string): number => wholeNumber('--seed', text, 0, seedCount - 1)
  if (seed?.includes(',')) {
    const seeds = seed.split(',').map((text) => isSeed(text.trim()))
    if (seeds.length > maxPictures)
      throw new AppError('bad_argument', `--seed must list at most ${maxPictures} seeds, got ${seeds.length}`)
    if (count !== null && count !== seeds.length)
      throw new AppError('bad_argument', `--num is ${count} and --seed lists ${seeds.length}; leave out --num`)
    return seeds
  }
  const first = seed === undefined ? randomInt(seedCount) : isSeed(seed)
  return Array.from({ length: count ?? 1 }, (_, index) => (first + index) % seedCount)
}

/** Where the models are, and how they share the steps. */
export type ResolvedModels = {
  readonly files: Pick<TaskFiles, 'checkpoint' | 'refiner'>
  readonly refiner: GenerateTask['refiner']
}

/** The models' places: the options, else what is configured. Throws `bad_argument`, `model_not_found`. */
export function resolveModels(
  options: Pick<GenerateOptions, 'model' | 'refiner' | 'highNoiseFrac'>,
  config: Config,
): ResolvedModels {
  const checkpoint =
    options.model === undefined ? found('default model', config.modelPath) : found('--model', options.model)
  const place = options.refiner === undefined ? config.refinerPath : options.refiner
  if (place === null || place === false) {
    if (options.highNoiseFrac !== undefined)
      throw new AppError('bad_argument', '--high-noise-frac needs a refiner: give --refiner or set SEPIA_REFINER')
    return { files: { checkpoint, refiner: null }, refiner: null }
  }
  const denoisingEnd = numberFrom('--high-noise-frac', options.highNoiseFrac ?? defaultHighNoiseFrac, 0, 1)
  const refiner = found(options.refiner === undefined ? 'SEPIA_REFINER' : '--refiner', place)
  // All steps are the base model's, so that the refiner need not be read.
  if (denoisingEnd === 1) return { files: { checkpoint, refiner: null }, refiner: null }
  return { files: { checkpoint, refiner }, refiner: { denoisingEnd } }
}

function found(name: string, place: string): string {
  const resolved = path.resolve(place)
  if (place === '' || !statSync(resolved, { throwIfNoEntry: false }))
    throw new AppError('model_not_found', `${name}: there is no file or folder ${place === '' ? '""' : resolved}`)
  return resolved
}

function checkedPrompt(name: string, text: string): string {
  // A character is a code point, as it is for the programs that send prompts over HTTP.
  const { length } = Array.from(text)
  if (length > promptLimit)
    throw new AppError('bad_prompt', `${name} must have at most ${promptLimit} characters, got ${length}`)
  if (text.includes('\0') || !text.isWellFormed())
    throw new AppError('bad_prompt', `${name} must be Unicode text without NUL characters`)
  return text
}
