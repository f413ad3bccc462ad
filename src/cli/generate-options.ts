// The options of `sepia generate`, from text to one resolved order: each value checked, each default applied.
import { randomInt } from 'node:crypto'
import { statSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import path from 'node:path'
import { requireSteps, samplerNames } from '#diffusion/samplers.ts'
import { devices, precisions } from '#engine/backend.ts'
import type { EngineSettings, GenerateTask, TaskFiles } from '#worker/protocol.ts'
import type { Config } from '../config.ts'
import { AppError } from '../errors.ts'
import { byteSize, numberAbove, oneOf, wholeNumber } from './option-values.ts'

/** What commander hands over: text as typed, with the defaults that --help shows. */
export type EngineOptions = {
  readonly precision: string
  readonly device: string
  readonly threads?: string
  readonly cache?: string
  readonly cacheLimit?: string
}

/** The options of `sepia generate`, as typed. */
export type GenerateOptions = EngineOptions & {
  readonly model?: string
  readonly negative?: string
  readonly prompt2?: string
  readonly negative2?: string
  readonly seed?: string
  readonly steps: string
  readonly cfg: string
  readonly sampler: string
  readonly width: string
  readonly height: string
  readonly num: string
  readonly clipSkip?: string
  readonly output?: string
  readonly json?: boolean
  readonly verbose?: boolean
}

/** Settings of an engine process, all but the scratch folder, which belongs to the process. */
export type EngineOrder = Omit<EngineSettings, 'scratchDir'>

const seedCount = 2 ** 32
const promptLimit = 10_000

/** Check the options that concern the machine rather than the picture. Throws `bad_argument`. */
export function resolveEngine(options: Partial<EngineOptions>, config: Config): EngineOrder {
  const { precision = 'fp32', device = 'cpu', threads, cache, cacheLimit } = options
  // More threads than cores wait for each other in busy loops.
  const cores = availableParallelism()
  if (cache === '') throw new AppError('bad_argument', '--cache must be a folder, got ""')
  return {
    precision: oneOf('--precision', precision, precisions),
    device: oneOf('--device', device, devices),
    threads: threads === undefined ? cores : wholeNumber('--threads', threads, 1, cores),
    cacheDir: cache === undefined ? config.cacheDir : path.resolve(cache),
    cacheLimitBytes: cacheLimit === undefined ? config.cacheLimitBytes : byteSize('--cache-limit', cacheLimit),
  }
}

/** Check everything about the pictures but the place for them. Throws `bad_argument`, `bad_prompt`. */
export function resolveTask(prompt: string, options: GenerateOptions): Omit<GenerateTask, 'imageEncoding'> {
  const count = wholeNumber('--num', options.num, 1, 16)
  const seed = options.seed === undefined ? randomInt(seedCount) : wholeNumber('--seed', options.seed, 0, seedCount - 1)
  const sampler = oneOf('--sampler', options.sampler, samplerNames)
  const numInferenceSteps = wholeNumber('--steps', options.steps, 1, 200)
  requireSteps(sampler, numInferenceSteps)
  return {
    prompt: checkedPrompt('PROMPT', prompt),
    prompt2: options.prompt2 === undefined ? null : checkedPrompt('--prompt-2', options.prompt2),
    negativePrompt: options.negative === undefined ? null : checkedPrompt('--negative', options.negative),
    negativePrompt2: options.negative2 === undefined ? null : checkedPrompt('--negative-2', options.negative2),
    // Multiples of what depends on the model, which only the engine knows.
    width: wholeNumber('--width', options.width, 8, 4096),
    height: wholeNumber('--height', options.height, 8, 4096),
    numInferenceSteps,
    guidanceScale: numberAbove('--cfg', options.cfg, 0, 50),
    sampler,
    seeds: Array.from({ length: count }, (_, index) => (seed + index) % seedCount),
    clipSkip: options.clipSkip === undefined ? null : wholeNumber('--clip-skip', options.clipSkip, 1, 12),
    start: { mode: 'textToImage' },
    refiner: null,
    previews: false,
  }
}

/** The model's place: the option, else the configured default. Throws `model_not_found`. */
export function resolveModel(model: string | undefined, config: Config): TaskFiles {
  const checkpoint = model === undefined ? config.modelPath : path.resolve(model)
  if (!statSync(checkpoint, { throwIfNoEntry: false }))
    throw new AppError(
      'model_not_found',
      `${model === undefined ? 'default model' : '--model'}: there is no file or folder ${checkpoint}`,
    )
  return { checkpoint, refiner: null, pictures: {} }
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
