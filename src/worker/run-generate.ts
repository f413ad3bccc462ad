// One task in an engine process: from a resolved order to encoded pictures.
import type { Networks } from '#diffusion/networks.ts'
import { generate } from '#diffusion/pipeline.ts'
import { TextEncoder } from '#engine/networks/text-encoder.ts'
import { UNet, unetActivationBytes } from '#engine/networks/unet.ts'
import { VaeDecoder, vaeDecodeBytes } from '#engine/networks/vae-decoder.ts'
import { checkPngText, encodeJpeg, encodePng, toPixels, type Pixels } from '#image/codec.ts'
import type { OpenModel, PipelineCache } from './pipeline-cache.ts'
import { pngText } from './png-text.ts'
import type { EngineSettings, GenerateResult, GenerateTask, Progress, TaskFiles } from './protocol.ts'
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
/** The smallest tile that the VAE is asked for, in latents. */
const minTileEdge = 32

/** Make a task's pictures, handing over each one as soon as it is encoded. */
export async function runGenerate(
  task: GenerateTask,
  files: TaskFiles,
  context: GenerateContext,
): Promise<GenerateResult> {
  const { onImage, onProgress, pipelines } = context
  const watch: Watch = new Stopwatch('load')
  const opened = await pipelines.open(files.checkpoint, onProgress)
  const model = textToImageModel(opened.checkpoint)
  if (task.imageEncoding === 'png') checkPngText(pngText(task, 0, opened.modelHash))
  const stepMs: number[] = []
  const warnings: string[] = []
  const networks = networksFor(opened, model, context, watch, warnings)

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

/** The pipeline's networks, out of the cache; their loading is timed apart. */
function networksFor(
  opened: OpenModel,
  { textEncoder, vae }: TextToImageModel,
  { onProgress, pipelines, settings }: GenerateContext,
  watch: Watch,
  warnings: string[],
): Networks {
  const { textEncoder2, unet } = opened.checkpoint
  return {
    guidanceBatch: settings.device === 'cpu' ? 1 : 2,
    textEncoder: (which, options) =>
      watch.during('load', () => {
        const component = which === 'textEncoder' ? textEncoder : textEncoder2
        const request = { kind: 'textEncoder', component, options, activationBytes: textActivationBytes } as const
        return pipelines.network(opened, { ...request, load: (...args) => TextEncoder.load(...args) }, onProgress)
      }),
    unet: (options) =>
      watch.during('load', () => {
        const activationBytes = unetActivationBytes(unet.config, options)
        const request = { kind: 'unet', component: unet, options, activationBytes } as const
        return pipelines.network(opened, { ...request, load: (...args) => UNet.load(...args) }, onProgress)
      }),
    vaeDecoder: (options) =>
      watch.during('load', () => {
        const activationBytes = vaeDecodeBytes(vae.config, options)
        const request = { kind: 'vaeDecoder', component: vae, options, activationBytes } as const
        return pipelines.network(opened, { ...request, load: (...args) => VaeDecoder.load(...args) }, onProgress)
      }),
    async decodeEdgeLimit(size) {
      const available = await pipelines.makeRoom(vaeDecodeBytes(vae.config, size))
      if (available >= vaeDecodeBytes(vae.config, size)) return null
      let edge = Math.max(size.height, size.width)
      while (edge > minTileEdge && vaeDecodeBytes(vae.config, { height: edge, width: edge }) > available) edge -= 8
      warnings.push(`memory was short: the picture was decoded in tiles of ${edge} latents, which changes it slightly`)
      return edge
    },
  }
}

async function encode(pixels: Pixels, task: GenerateTask, seed: number, modelHash: string): Promise<Uint8Array> {
  return task.imageEncoding === 'png' ? encodePng(pixels, pngText(task, seed, modelHash)) : encodeJpeg(pixels)
}

function isOneColour({ data }: Pixels): boolean {
  for (let i = 3; i < data.length; i++) if (data[i] !== data[i - 3]) return false
  return true
}
