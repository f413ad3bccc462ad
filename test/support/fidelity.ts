// How far a rounded precision is from fp32: the same picture in both, and both UNets over the inputs of fp32's own run.
import { UNet, type UNetConditioning } from '#engine/networks/unet.ts'
import type { Pixels } from '#image/codec.ts'
import type { Tensor } from '#tensor/tensor.ts'
import { PipelineCache } from '#worker/pipeline-cache.ts'
import type { EngineSettings, GenerateTask, TaskFiles } from '#worker/protocol.ts'
import { runGenerate } from '#worker/run-generate.ts'

/** One evaluation of a UNet. */
type Evaluation = {
  readonly sample: Tensor
  readonly timestep: number
  readonly conditioning: UNetConditioning
  readonly output: Tensor
}

/** A picture in fp32 with every evaluation of its UNet. */
export type ExactPicture = { readonly pixels: Pixels; readonly evaluations: readonly Evaluation[] }

export type Fidelity = {
  readonly pixels: Pixels
  /** Of the picture, in decibels; infinite where it is the same. */
  readonly psnr: number
  /** ‖rounded − exact‖ / ‖exact‖ of the UNet's output at each evaluation, for the inputs that fp32 has there. */
  readonly stepErrors: readonly number[]
}

/** The task's first picture, with what its UNet was given and answered. */
export async function exactPicture(
  task: GenerateTask,
  files: TaskFiles,
  settings: EngineSettings,
): Promise<ExactPicture> {
  await using pipelines = new PipelineCache(settings)
  const evaluations: Evaluation[] = []
  const pixels = await paint(task, files, pipelines, (_, evaluation) => evaluations.push(evaluation))
  return { pixels, evaluations }
}

/** The same task in other settings, beside its exact picture. */
export async function fidelityOf(
  task: GenerateTask,
  files: TaskFiles,
  settings: EngineSettings,
  exact: ExactPicture,
): Promise<Fidelity> {
  await using pipelines = new PipelineCache(settings)
  let unet: UNet | null = null
  const pixels = await paint(task, files, pipelines, (used) => {
    unet = used
  })
  const stepErrors: number[] = []
  for (const { conditioning, output, sample, timestep } of exact.evaluations) {
    const rounded = await unet!.predict(sample, timestep, conditioning)
    stepErrors.push(relativeDifference(rounded.data, output.data))
  }
  return { pixels, psnr: psnrOf(pixels, exact.pixels), stepErrors }
}

type Predict = (this: UNet, sample: Tensor, timestep: number, conditioning: UNetConditioning) => Promise<Tensor>

/** Make the task's picture and tell of each evaluation of its UNet. */
async function paint(
  task: GenerateTask,
  files: TaskFiles,
  pipelines: PipelineCache,
  onEvaluation: (unet: UNet, evaluation: Evaluation) => void,
): Promise<Pixels> {
  const painted: Pixels[] = []
  const watchedClass = UNet.prototype as unknown as { predict: Predict }
  const { predict } = watchedClass
  watchedClass.predict = async function watched(sample, timestep, conditioning) {
    const input = copyOf(sample)
    const output = await predict.call(this, sample, timestep, conditioning)
    onEvaluation(this, { sample: input, timestep, conditioning, output: copyOf(output) })
    return output
  }
  try {
    await runGenerate(task, files, {
      pipelines,
      onProgress: () => {},
      onImage: async () => {},
      onPainted: (_, pixels) => painted.push(pixels),
    })
  } finally {
    watchedClass.predict = predict
  }
  return painted[0]
}

/** Peak signal-to-noise ratio of two pictures of 8 bits, in decibels. */
export function psnrOf(a: Pixels, b: Pixels): number {
  const squares = a.data.reduce((sum, value, index) => sum + (value - b.data[index]) ** 2, 0)
  return 10 * Math.log10(255 ** 2 / (squares / a.data.length))
}

function relativeDifference(actual: Float32Array, expected: Float32Array): number {
  let [difference, norm] = [0, 0]
  for (let i = 0; i < expected.length; i++) {
    difference += (actual[i] - expected[i]) ** 2
    norm += expected[i] ** 2
  }
  return Math.sqrt(difference / norm)
}

function copyOf({ data, shape }: Tensor): Tensor {
  return { shape, data: data.slice() }
}
