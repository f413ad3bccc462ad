// One task in an engine process: from a resolved order to encoded pictures.
import { checkOrder, generate, type PipelineEvent, type PipelineOrder } from '#diffusion/pipeline.ts'
import { fitPreview } from '#diffusion/preview.ts'
import { unusedTriggers, type PromptInversion } from '#diffusion/prompt/trigger-words.ts'
import { vaeScaleFactor } from '#engine/models/vae-config.ts'
import { checkPngText, encodeJpeg, encodePng, toPixels, type Pixels } from '#image/codec.ts'
import type { Tensor } from '#tensor/tensor.ts'
import type { PipelineCache } from './pipeline-cache.ts'
import { calibrateModel } from './calibrate.ts'
import { isQuantizationKnown, needsCalibration } from './network-quantization.ts'
import { pngText, type MadeWith } from './png-text.ts'
import type { GenerateResult, GenerateTask, Progress, TaskFiles } from './protocol.ts'
import { AppError } from '../errors.ts'
import { Stopwatch } from './stopwatch.ts'
import { previewEncoder, type PreviewEncoder } from './preview-encoder.ts'
import { openTaskInversions, openTaskVae } from './task-assets.ts'
import { openTaskLoras } from './task-loras.ts'
import { taskModel } from './task-model.ts'
import { taskNetworks } from './task-networks.ts'
import { openTaskPictures } from './task-pictures.ts'

export type GenerateContext = {
  readonly pipelines: PipelineCache
  readonly onProgress: (progress: Progress) => void
  readonly onImage: (index: number, seed: number, bytes: Uint8Array) => Promise<void>
  /** Told when the task can be stopped. */
  readonly onInterruptible?: () => void
  /** Told of each picture as the networks made it, before it is put into its place in the picture that was given. */
  readonly onPainted?: (index: number, pixels: Pixels) => void
  /** Milliseconds of a clock, by which previews are paced. */
  readonly now?: () => number
}

/** Make a task's pictures, handing over each one as soon as it is encoded. */
export async function runGenerate(
  task: GenerateTask,
  files: TaskFiles,
  context: GenerateContext,
): Promise<GenerateResult> {
  const { onImage, onProgress, pipelines } = context
  const watch = new Stopwatch<'load' | PipelineEvent['phase']>('load')

  // 1. Everything that can be wrong with the order is told before the weights are read for the first time.
  const refinerPath = refinerPathOf(task, files)
  const checkpoint = await pipelines.checkpoint(files.checkpoint, files.servedModel)
  const refinerCheckpoint = refinerPath === null ? null : await pipelines.checkpoint(refinerPath)
  const otherVae = await openTaskVae(task, files, checkpoint)
  const { pipeline, vae } = taskModel(
    otherVae ? { ...checkpoint, vae: otherVae } : checkpoint,
    refinerCheckpoint,
    task.start.mode,
  )
  const inversions = await openTaskInversions(task, files, checkpoint, refinerCheckpoint)
  const order = pipelineOrder(task, inversions)
  checkOrder(pipeline, order)
  const loras = await openTaskLoras(task, files, checkpoint, await pipelines.choice())
  watch.enter('encodeStart')
  const pictures = await openTaskPictures(task, files, vaeScaleFactor(vae.config))
  watch.enter('load')

  // 2. weights
  const ownModel = await pipelines.open(files.checkpoint, onProgress, files.servedModel)
  const opened = otherVae ? await pipelines.withVae(ownModel, otherVae, onProgress) : ownModel
  const refiner = refinerPath === null ? null : await pipelines.open(refinerPath, onProgress)
  const { backend, precision } = await pipelines.choice()
  const fallback = await pipelines.choiceFault()
  if (pipelines.isInterruptible) context.onInterruptible?.()
  const made: MadeWith = { backend, precision, model: opened.modelHash, refiner: refiner?.modelHash ?? null }
  if (task.imageEncoding === 'png') checkPngText(pngText(task, 0, made))
  const warnings = new Set([
    ...ignoredByGuidance(task),
    ...unusedWords(task, inversions),
    ...pictures.warnings,
    ...fallback,
  ])
  if (needsCalibration(made))
    for (const model of [opened, refiner])
      if (model && !isQuantizationKnown(model.hashes.get('unet')!, made))
        await calibrateModel(model, pipelines, onProgress, (warning) => warnings.add(warning))

  // 3. pictures
  const stepMs: number[] = []
  let current: Progress = { phase: 'encode' }
  const networks = taskNetworks(opened, refiner, vae, loras, {
    pipelines,
    onProgress,
    duringLoad: (load) => watch.during('load', load),
    onLoaded: () => onProgress(current),
    onWarning: (warning) => warnings.add(warning),
    onlyPicture: task.seeds.length === 1,
  })
  const preview = task.previews
    ? previewEncoder(
        await pipelines.previewProjection(opened.hashes.get('vae')!, () => fitPreview(networks, vae.config)),
        context.now ?? (() => performance.now()),
      )
    : null
  const input = { ...order, start: pictures.start, seeds: task.seeds, previews: task.previews }
  for await (const event of generate(pipeline, networks, input)) {
    const elapsedMs = watch.enter(event.phase)
    if (event.phase === 'done') {
      const seed = task.seeds[event.image]
      const painted = toPixels(withoutBatch(event.picture))
      context.onPainted?.(event.image, painted)
      if (isOneColour(painted)) warnings.add(`the picture of seed ${seed} has a single colour`)
      await onImage(event.image, seed, await encode(pictures.finish(painted), task, seed, made))
    } else {
      if (isStepAfter(current, event)) stepMs.push(elapsedMs)
      current = await progressOf(event, preview)
      onProgress(current)
    }
  }
  watch.enter('load')
  return {
    backend,
    precision,
    modelHash: made.model,
    refinerHash: made.refiner,
    timings: {
      loadMs: watch.ms('load'),
      encodePromptMs: watch.ms('encode'),
      encodeStartMs: watch.ms('encodeStart'),
      stepMs,
      decodeMs: watch.ms('decode'),
      encodeImageMs: watch.ms('done'),
      totalMs: watch.totalMs(),
    },
    warnings: [...warnings],
  }
}

/** A word of an inversion that no prompt has changes nothing; the user is told. */
function unusedWords(task: GenerateTask, inversions: readonly PromptInversion[]): string[] {
  const texts = [task.prompt, task.prompt2, task.negativePrompt, task.negativePrompt2].filter((text) => text !== null)
  return unusedTriggers(inversions, texts).map(
    (trigger) => `the textual inversion ${JSON.stringify(trigger)} has no effect: none of the prompts has that word`,
  )
}

/** Where the task's refiner lies; null where it has none. */
function refinerPathOf({ refiner }: GenerateTask, files: TaskFiles): string | null {
  if (refiner === null) return null
  if (files.refiner === null) throw new AppError('internal', 'refiner: the task asks for one and no file is given')
  return files.refiner
}

function pipelineOrder(task: GenerateTask, inversions: readonly PromptInversion[]): PipelineOrder {
  const { start, refiner } = task
  return {
    ...task,
    inversions,
    strength: start.mode === 'textToImage' ? 1 : start.strength,
    denoisingEnd: refiner?.denoisingEnd ?? null,
  }
}

/** Whether `event` tells of one more evaluation than `before`, so that the time between them is that evaluation's. */
function isStepAfter(before: Progress, event: PipelineEvent): boolean {
  if (before.phase !== 'denoise' || event.phase !== 'denoise') return false
  return event.image === before.image && event.step === before.step + 1
}

async function progressOf(
  event: Exclude<PipelineEvent, { phase: 'done' }>,
  preview: PreviewEncoder | null,
): Promise<Progress> {
  if (event.phase !== 'denoise') return event
  const { phase, image, step, of, clean } = event
  const progress = { phase, image, step, of }
  const jpeg = clean && (await preview?.(clean))
  return jpeg ? { ...progress, preview: jpeg } : progress
}

/** (1, 3, H, W) → (3, H, W) */
function withoutBatch({ shape, data }: Tensor): Tensor {
  return { shape: shape.slice(1), data }
}

async function encode(pixels: Pixels, task: GenerateTask, seed: number, made: MadeWith): Promise<Uint8Array> {
  return task.imageEncoding === 'png' ? encodePng(pixels, pngText(task, seed, made)) : encodeJpeg(pixels)
}

/** At a guidance scale of 1 or below the reference never looks at the negative prompt; the user is told. */
function ignoredByGuidance({ guidanceScale, negativePrompt, negativePrompt2 }: GenerateTask): string[] {
  if (guidanceScale > 1 || (negativePrompt === null && negativePrompt2 === null)) return []
  return [`the negative prompt has no effect at a cfg of ${guidanceScale}, it needs one above 1`]
}

function isOneColour({ data }: Pixels): boolean {
  for (let i = 3; i < data.length; i++) if (data[i] !== data[i - 3]) return false
  return true
}
