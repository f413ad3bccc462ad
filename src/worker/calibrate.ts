// Finding the ranges of a UNet's values (docs/quantize.md): a few seeded prompts go through the model at several noise
// levels, each layer's input is watched, and the way of rounding it that hurts least is kept in the cache folder.
import { denoise } from '#diffusion/denoise.ts'
import { encodePrompts } from '#diffusion/encode-prompt.ts'
import { prepareGuidance, timeIdsOf } from '#diffusion/guidance.ts'
import type { DenoiserNetworks } from '#diffusion/networks.ts'
import { createScheduler } from '#diffusion/schedulers/create-scheduler.ts'
import { UNet, unetActivationBytes, type UNetEvaluation, type UNetOptions } from '#engine/networks/unet.ts'
import { vaeScaleFactor } from '#engine/models/vae-config.ts'
import {
  cachedCalibration,
  calibratedLayers,
  calibrationVersion,
  type Calibration,
  type CalibrationSettings,
} from '#engine/quantize/calibration-file.ts'
import { chooseLayers, type CalibratedLayer } from '#engine/quantize/choose-layers.ts'
import { StatisticsCollector } from '#engine/quantize/input-statistics.ts'
import { observeInputs } from '#engine/quantize/observe-inputs.ts'
import { quantizableLayers } from '#engine/quantize/quantization.ts'
import { TorchGenerator } from '#tensor/random.ts'
import { tensor, zeros, type Tensor } from '#tensor/tensor.ts'
import { AppError } from '../errors.ts'
import { calibrationSettings } from './network-quantization.ts'
import type { OpenModel, PipelineCache } from './pipeline-cache.ts'
import type { Progress } from './protocol.ts'
import { denoiserModel } from './task-model.ts'
import { denoiserNetworks } from './task-networks.ts'

/** Deterministic, and the plainest there is. */
const sampler = 'DDIM'
const textLength = 77
/** One evaluation in so many is kept, to compare the rounded network with. */
const comparedEvery = 4
/** What a VAE is taken to make of a latent where the model has none: SDXL's. */
const usualScaleFactor = 8

type Recorded = UNetEvaluation & { readonly expected: Tensor }

/** The calibration of a model's UNet, out of the cache or made now; `onWarning` hears why it is made again. */
export async function calibrateModel(
  model: OpenModel,
  pipelines: PipelineCache,
  onProgress: (progress: Progress) => void,
  onWarning: (warning: string) => void,
): Promise<Calibration> {
  const { cacheDir, scratchDir } = pipelines.settings
  const network = model.hashes.get('unet')!
  const settings = await calibrationSettings(model.checkpoint.unet.config)
  const make = async (): Promise<Calibration> => {
    const { collector, recorded } = await watchRuns(model, settings, pipelines, onProgress)
    const layers = await chooseAll(collector, model, settings, onProgress)
    const outputErrors = await compare(model, layers, settings, recorded, pipelines, onProgress)
    return { version: calibrationVersion, network, settings, layers, outputErrors }
  }
  return await cachedCalibration({ cacheDir, scratchDir }, network, settings, make, (file) =>
    onWarning(`int8: ${file} was damaged, and the UNet was calibrated again`),
  )
}

/** Run the prompts, and collect what goes into each layer. */
async function watchRuns(
  model: OpenModel,
  settings: CalibrationSettings,
  pipelines: PipelineCache,
  onProgress: (progress: Progress) => void,
): Promise<{ collector: StatisticsCollector; recorded: Recorded[] }> {
  const { guidanceScale, latentEdge, numInferenceSteps, prompts } = settings
  const { unet: component, vae } = model.checkpoint
  const denoiser = denoiserModel(model.checkpoint)
  const paths = new Set(quantizableLayers(component.weights))
  const recorded: Recorded[] = []
  let collector: StatisticsCollector | null = null
  let evaluations = 0
  const observer = {
    build: (g: Parameters<typeof observeInputs>[0]) => {
      collector = new StatisticsCollector(observeInputs(g, paths))
    },
    evaluated: (evaluation: UNetEvaluation, outputs: Readonly<Record<string, Tensor>>) => {
      collector!.add(outputs)
      if (evaluations++ % comparedEvery !== 1) return
      // The next evaluation overwrites its input.
      const sample = tensor(evaluation.sample.shape, evaluation.sample.data.slice())
      recorded.push({ ...evaluation, sample, expected: outputs['noise_pred'] })
    },
  }
  const networks: DenoiserNetworks = {
    ...denoiserNetworks(model, null, {
      pipelines,
      onProgress,
      duringLoad: (load) => load(),
      onLoaded: () => {},
      onWarning: () => {},
    }),
    unet: (options) =>
      pipelines.network(
        model,
        {
          kind: 'observedUNet',
          component,
          options,
          activationBytes: unetActivationBytes(component.config, options),
          quantization: null,
          load: (source, size) => UNet.load(source, size, new Set(), observer),
        },
        onProgress,
      ),
  }
  const pixels = latentEdge * (vae ? vaeScaleFactor(vae.config) : usualScaleFactor)
  const channels = component.config.outChannels
  const maskChannels = maskChannelsOf(component.config.inChannels - channels, latentEdge)
  for (const [index, prompt] of prompts.entries()) {
    const texts = { prompt, prompt2: null, negativePrompt: null, negativePrompt2: null, clipSkip: null, inversions: [] }
    const encoded = await encodePrompts(denoiser, networks, texts, true)
    const unet = await networks.unet({ batch: 1, height: latentEdge, width: latentEdge, textLength })
    const scheduler = createScheduler(sampler, denoiser.scheduler, numInferenceSteps)
    const generator = new TorchGenerator(index + 1)
    const shape = [1, channels, latentEdge, latentEdge]
    const latents = tensor(
      shape,
      generator.randn(shape).data.map((value) => value * scheduler.initNoiseSigma),
    )
    const steps = denoise({
      guidance: prepareGuidance(unet, encoded, timeIdsOf(denoiser.kind, pixels, pixels), guidanceScale),
      scheduler,
      stage: { begin: 0, end: scheduler.timesteps.length },
      latents,
      noise: () => generator.randn(shape).data,
      kept: null,
      maskChannels,
      guess: null,
    })
    const of = prompts.length * scheduler.timesteps.length
    for await (const { step } of steps)
      onProgress({ phase: 'calibrate', component: 'unet', step: index * scheduler.timesteps.length + step, of })
  }
  // The watched network has done its work, and takes the most memory of all.
  await pipelines.makeRoom(Infinity)
  if (!collector) throw new AppError('internal', 'calibration: the network was not built')
  return { collector, recorded }
}

/** An inpainting UNet's further channels: everything is to be painted, and nothing is known. */
function maskChannelsOf(count: number, edge: number): Tensor | null {
  if (count === 0) return null
  const channels = zeros([1, count, edge, edge])
  channels.data.fill(1, 0, edge * edge)
  return channels
}

async function chooseAll(
  collector: StatisticsCollector,
  { checkpoint }: OpenModel,
  { weightLimit }: CalibrationSettings,
  onProgress: (progress: Progress) => void,
): Promise<CalibratedLayer[]> {
  const { weights } = checkpoint.unet
  const of = quantizableLayers(weights).length
  const layers: CalibratedLayer[] = []
  for (const statistics of collector.drain()) {
    layers.push(...(await chooseLayers(statistics, weights, weightLimit)))
    onProgress({ phase: 'calibrate', component: 'unet', step: layers.length, of })
  }
  return layers
}

/** The rounded network's output beside that of the one that was watched. */
async function compare(
  model: OpenModel,
  layers: readonly CalibratedLayer[],
  { latentEdge, weightLimit }: CalibrationSettings,
  recorded: readonly Recorded[],
  pipelines: PipelineCache,
  onProgress: (progress: Progress) => void,
): Promise<Calibration['outputErrors']> {
  const component = model.checkpoint.unet
  const options: UNetOptions = { batch: 1, height: latentEdge, width: latentEdge, textLength }
  const unet = await pipelines.network(
    model,
    {
      kind: 'unet',
      component,
      options,
      activationBytes: unetActivationBytes(component.config, options),
      quantization: { layers: calibratedLayers({ layers }), weightLayout: 'rows', weightLimit },
      load: (source, size) => UNet.load(source, size),
    },
    onProgress,
  )
  const errors: { timestep: number; error: number }[] = []
  for (const { conditioning, expected, sample, timestep } of recorded) {
    const { data } = await unet.predict(sample, timestep, conditioning)
    let difference = 0
    let norm = 0
    for (let i = 0; i < data.length; i++) {
      difference += (data[i] - expected.data[i]) ** 2
      norm += expected.data[i] ** 2
    }
    errors.push({ timestep, error: Math.sqrt(difference / norm) })
  }
  return errors
}
