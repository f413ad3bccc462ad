// The pictures of a task: from encoded files to what the pipeline starts from, and from what it paints to what is asked
// for. Pictures of another size are resized to the result's, with the reference's filters.
import { readFile } from 'node:fs/promises'
import type { PipelineStart } from '#diffusion/start.ts'
import type { GrayPixels, Pixels } from '#image/codec.ts'
import { decodeMask, decodePicture } from '#image/decode-picture.ts'
import { matchEdgeTone } from '#image/edge-tone.ts'
import { cropAndResize, cropAndResizeMask, cropRegion } from '#image/mask-crop.ts'
import { matchTone } from '#image/match-tone.ts'
import { prepareOutpaint } from '#image/outpaint.ts'
import { pasteInpainted } from '#image/paste.ts'
import { latentMask, toMaskTensor, toPictureTensor } from '#image/picture-tensor.ts'
import { resizeLanczos, resizeMask } from '#image/resize.ts'
import { TorchGenerator } from '#tensor/random.ts'
import { AppError } from '../errors.ts'
import type { ContentHash, GenerateTask, TaskFiles } from './protocol.ts'

/** A task's start as the pipeline takes it, and the end of the way of each picture. */
export type TaskPictures = {
  readonly start: PipelineStart
  /** The painted picture in its place; the picture itself where nothing has to be kept. */
  readonly finish: (painted: Pixels) => Pixels
  readonly warnings: readonly string[]
}

/** Seed of the noise on an outpainting canvas: the same for every picture, so that each can be made again alone. */
const canvasSeed = 0

/**
 * Read and prepare a task's pictures for latents of which one stands for `factor` pixels. Throws `bad_image`, with the
 * task's field, for what is no usable picture.
 */
export async function openTaskPictures(task: GenerateTask, files: TaskFiles, factor: number): Promise<TaskPictures> {
  const { height, start, width } = task
  if (start.mode === 'textToImage') return { start, finish: (painted) => painted, warnings: [] }

  const given = await decodePicture(await bytesOf(files, start.image, 'start.image'), 'start.image')
  const original = given.width === width && given.height === height ? given : resizeLanczos(given, width, height)
  if (start.mode === 'imageToImage')
    return { start: { mode: start.mode, image: toPictureTensor(original) }, finish: (painted) => painted, warnings: [] }

  const givenMask = await decodeMask(await bytesOf(files, start.mask, 'start.mask'), 'start.mask')
  const mask =
    givenMask.width === width && givenMask.height === height ? givenMask : resizeMask(givenMask, width, height)
  const inpaint = (image: Pixels, where: GrayPixels): Pick<TaskPictures, 'start' | 'warnings'> => {
    const maskTensor = toMaskTensor(where)
    if (!maskTensor.data.includes(1))
      throw new AppError('bad_image', 'mask: no pixel of it is white, so there is nothing to paint', {
        field: 'start.mask',
      })
    const latents = latentMask(maskTensor, height / factor, width / factor)
    // The reference looks at one pixel a latent.
    const isMissed = !latents.data.includes(1)
    return {
      start: { mode: 'inpaint', image: toPictureTensor(image), mask: maskTensor, latentMask: latents },
      warnings: isMissed ? [`the mask is finer than a latent of ${factor} pixels: nothing was painted`] : [],
    }
  }
  if (start.mode === 'outpaint') {
    const noise = new TorchGenerator(canvasSeed)
    const canvas = prepareOutpaint(original, mask, () => noise.uniform(), factor)
    return {
      ...inpaint(canvas.image, canvas.mask),
      finish: (painted) =>
        pasteInpainted({
          original: canvas.image,
          painted: matchTone(painted, canvas.image, canvas.mask),
          mask: canvas.mask,
          cell: factor,
        }),
    }
  }
  if (start.fullResPadding === null)
    return {
      ...inpaint(original, mask),
      finish: (painted) => {
        const toned = matchEdgeTone(painted, original, mask, factor)
        return pasteInpainted({ original, painted: toned, mask, cell: factor })
      },
    }
  const region = cropRegion(mask, width, height, start.fullResPadding)
  const detail = cropAndResize(original, region, width, height)
  const detailMask = cropAndResizeMask(mask, region, width, height)
  return {
    ...inpaint(detail, detailMask),
    finish: (painted) => {
      const toned = matchEdgeTone(painted, detail, detailMask, factor)
      return pasteInpainted({ original, painted: toned, mask, region, cell: factor })
    },
  }
}

async function bytesOf({ pictures }: TaskFiles, hash: ContentHash, field: string): Promise<Uint8Array> {
  const path = pictures[hash]
  if (path === undefined) throw new AppError('internal', `${field}: the task names picture ${hash} and no file of it`)
  try {
    return await readFile(path)
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : error
    throw new AppError('bad_image', `${field}: the file ${path} cannot be read (${String(code)})`, {
      cause: error,
      field,
    })
  }
}
