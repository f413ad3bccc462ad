// One task in an engine process: from a resolved order to encoded pictures.
import type { Networks } from '#diffusion/networks.ts'
import { checkInput, generate } from '#diffusion/pipeline.ts'
import { vaeScaleFactor } from '#engine/models/vae-config.ts'
import { TextEncoder } from '#engine/networks/text-encoder.ts'
import { UNet, unetActivationBytes } from '#engine/networks/unet.ts'
import { VaeDecoder, vaeDecodeBytes } from '#engine/networks/vae-decoder.ts'
import { checkPngText, encodeJpeg, encodePng, toPixels, type Pixels } from '#image/codec.ts'
import type { NetworkRequest, OpenModel, PipelineCache } from './pipeline-cache.ts'
import { pngText } from './png-text.ts'
import type { EngineSettings, GenerateResult, GenerateTask, Progress, TaskFiles } from './protocol.ts'
import { AppError } from '../errors.ts'
import { Stopwatch } from './stopwatch.ts'
import { textToImageModel, type TextToImageModel } from './text-to-image-model.ts'

export type GenerateContext = {
  readonly settings: EngineSettings
  readonly pipelines: PipelineCache
  readonly onProgress: (progress: Progress) => void
  readonly onImage: (index: number, seed: number, bytes: Uint8Array) => Promise<void>
}

type Watch = Stopwatch<'load' | 'encode' | 'denoise' | 'decode' | 'image'>

/** Memory for the activations of a text encoder over 77 tokens, in bytes: small against everything else. */
const textActivationBytes = 64 << 20
/** The smallest tile that is decoded when memory is short: below it there is too little picture round each pixel. */
const minTilePixels = 256
const minTileLatents = 8

/** Make a task's pictures, handing over each one as soon as it is encoded. */
export async function runGenerate(
  task: GenerateTask,
  files: TaskFiles,
  context: GenerateContext,
): Promise<GenerateResult> {
  const { onImage, onProgress, pipelines } = context
  const watch: Watch = new Stopwatch('load')
  if (task.start.mode !== 'textToImage' || task.refiner || task.previews)
    throw new AppError('bad_argument', `mode: ${task.start.mode} with these options is not there yet`)
  const model = textToImageModel(await pipelines.checkpoint(files.checkpoint))
  // Everything that can be wrong with the order is told before the weights are read for the first time.
  checkInput(model.pipeline, task)
  const opened = await pipelines.open(files.checkpoint, onProgress)
  if (task.imageEncoding === 'png') checkPngText(pngText(task, 0, opened.modelHash))
  const stepMs: number[] = []
  const warnings = ignoredByGuidance(task)
  let current: Progress = { phase: 'encode' }
  const networks = networksFor(opened, model, context, watch, warnings, () => onProgress(current))

  for await (const event of generate(model.pipeline, networks, task)) {
    if (event.phase === 'done') {
      watch.enter('image')
      const seed = task.seeds[event.image]
      const [, ...size] = event.picture.shape
      const pixels = toPixels({ shape: size, data: event.picture.data })
      if (isOneColour(pixels)) warnings.push(`the picture of seed ${seed} has a single colour`)
      await onImage(event.image, seed, await encode(pixels, task, seed, opened.modelHash))
    } else {
      const elapsedMs = watch.enter(event.phase)
      if (event.phase === 'denoise' && event.step > 0) stepMs.push(elapsedMs)
      current = event
      onProgress(event)
    }
  }
  watch.enter('load')
  return {
    modelHash: opened.modelHash,
    timings: {
      loadMs: watch.ms('load'),
      encodePromptMs: watch.ms('encode'),
      stepMs,
      decodeMs: watch.ms('decode'),
      encodeImageMs: watch.ms('image'),
      totalMs: watch.totalMs(),
    },
    warnings,
  }
}

/** The pipeline's networks, out of the cache; their loading is timed apart, and `resume` tells of what goes on after it. */
function networksFor(
  opened: OpenModel,
  { textEncoder, vae }: TextToImageModel,
  { onProgress, pipelines, settings }: GenerateContext,
  watch: Watch,
  warnings: string[],
  resume: () => void,
): Networks {
  const { textEncoder2, unet } = opened.checkpoint
  const load = <Config extends object, Options, Network extends AsyncDisposable>(
    request: NetworkRequest<Config, Options, Network>,
  ): Promise<Network> =>
    watch.during('load', async () => {
      let told = false
      const network = await pipelines.network(opened, request, (progress) => {
        told = true
        onProgress(progress)
      })
      if (told) resume()
      return network
    })
  return {
    guidanceBatch: settings.device === 'cpu' ? 1 : 2,
    textEncoder: (which, options) =>
      load({
        kind: 'textEncoder',
        component: which === 'textEncoder' ? textEncoder : textEncoder2,
        options,
        activationBytes: textActivationBytes,
        load: (...args) => TextEncoder.load(...args),
      }),
    unet: (options) =>
      load({
        kind: 'unet',
        component: unet,
        options,
        activationBytes: unetActivationBytes(unet.config, options),
        load: (...args) => UNet.load(...args),
      }),
    vaeDecoder: (options) =>
      load({
        kind: 'vaeDecoder',
        component: vae,
        options,
        activationBytes: vaeDecodeBytes(vae.config, options),
        load: (...args) => VaeDecoder.load(...args),
      }),
    async decodeEdgeLimit(size) {
      const available = await pipelines.makeRoom(vaeDecodeBytes(vae.config, size))
      if (available >= vaeDecodeBytes(vae.config, size)) return null
      const smallest = Math.max(minTileLatents, Math.ceil(minTilePixels / vaeScaleFactor(vae.config)))
      const longest = Math.max(size.height, size.width)
      let edge = longest
      while (edge > smallest && vaeDecodeBytes(vae.config, { height: edge, width: edge }) > available) edge -= 1
      if (edge === longest) return null
      warnings.push(`memory was short: the picture was decoded in tiles of ${edge} latents, which changes it slightly`)
      return edge
    },
  }
}

async function encode(pixels: Pixels, task: GenerateTask, seed: number, modelHash: string): Promise<Uint8Array> {
  return task.imageEncoding === 'png' ? encodePng(pixels, pngText(task, seed, modelHash)) : encodeJpeg(pixels)
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
