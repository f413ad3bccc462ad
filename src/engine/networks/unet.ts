import { zeros, type Tensor } from '#tensor/tensor.ts'
import type { Session } from '../backend.ts'
import { timeProjection } from '../models/time-embedding.ts'
import { unetGraph, unetHalves, type UNetGraphOptions } from '../models/unet.ts'
import type { UNetConfig } from '../models/unet-config.ts'
import type { Graph, GraphBuilder } from '../onnx/graph-builder.ts'
import type { LoraBranches } from '../weights/lora/lora-branches.ts'
import { branchFeeds, type LoraFeeds } from './lora-feeds.ts'
import { areLarge, createSession, type NetworkSource } from './network-source.ts'

export type UNetOptions = {
  readonly batch: number
  /** Latent rows and columns. */
  readonly height: number
  readonly width: number
  /** Tokens of the prompt: 77 a chunk; null: each evaluation tells its own. */
  readonly textLength: number | null
}

/** What the noise prediction depends on beside latents and time. */
export type UNetConditioning = {
  /** (B, textLength, crossAttentionDim) */
  readonly promptEmbeds: Tensor
  /** Pooled text and time ids, (B, addEmbeddingInputDim), see {@link addEmbeds}. */
  readonly addEmbeds: Tensor
}

/** One evaluation of a UNet. */
export type UNetEvaluation = {
  readonly sample: Tensor
  readonly timestep: number
  readonly conditioning: UNetConditioning
}

/** Watches a UNet: adds outputs to its graph, and is shown each evaluation with all that came out. */
export type UNetObserver = {
  build(g: GraphBuilder): void
  evaluated(evaluation: UNetEvaluation, outputs: Readonly<Record<string, Tensor>>): void
}

/** A UNet that is loaded for one size. */
export class UNet implements AsyncDisposable {
  readonly config: UNetConfig
  readonly batch: number
  readonly #session: Session
  /** The input that tells the time, filled anew for each evaluation. */
  readonly #timeProj: Tensor
  readonly #loraTargets: ReadonlySet<string>
  readonly #observer: UNetObserver | undefined
  #loras: LoraFeeds = {}

  private constructor(
    config: UNetConfig,
    batch: number,
    session: Session,
    loraTargets: ReadonlySet<string>,
    observer?: UNetObserver,
  ) {
    this.config = config
    this.batch = batch
    this.#session = session
    this.#loraTargets = loraTargets
    this.#observer = observer
    this.#timeProj = zeros([batch, config.timeProjDim])
  }

  /** Load the graph of one size; with `loraTargets` it takes branches at these modules, see {@link setLoras}. */
  static async load(
    source: NetworkSource<UNetConfig>,
    options: UNetOptions,
    loraTargets: ReadonlySet<string> = new Set(),
    observer?: UNetObserver,
  ): Promise<UNet> {
    const { backend, config, precision, quantization } = source
    const graphOptions: UNetGraphOptions = {
      ...options,
      precision,
      // onnxruntime's fused kernel answers wrongly on WebGPU at head sizes 32 and 64.
      attention: backend.device === 'webgpu' ? 'plain' : 'fused',
      loraTargets,
      controlResiduals: false,
      quantization,
    }
    const graphs: readonly [Graph, ...Graph[]] =
      backend.createChain && areLarge(source.weights) && !observer
        ? unetHalves(config, graphOptions)
        : [unetGraph(config, { ...graphOptions, observe: observer && ((g) => observer.build(g)) })]
    return new UNet(
      config,
      options.batch,
      // Kernels of rounded weights are only quick with weights that they have packed themselves.
      await createSession(source, graphs, {
        weightsInPlace: areLarge(source.weights) && !quantization,
        keepActivations: true,
      }),
      loraTargets,
      observer,
    )
  }

  /** Set the branches of the following evaluations: one for each of the targets that it was loaded with. */
  setLoras(branches: LoraBranches): void {
    this.#loras = branchFeeds('unet', this.#loraTargets, branches)
  }

  /** The network's output for latents (B, inChannels, H, W) at a timestep: (B, outChannels, H, W). */
  async predict(sample: Tensor, timestep: number, conditioning: UNetConditioning): Promise<Tensor> {
    const outputs = await this.#session.run({
      sample,
      time_proj: timeProjection(this.config, timestep, this.batch, this.#timeProj),
      encoder_hidden_states: conditioning.promptEmbeds,
      add_embeds: conditioning.addEmbeds,
      ...this.#loras,
    })
    this.#observer?.evaluated({ sample, timestep, conditioning }, outputs)
    return outputs['noise_pred']
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#session.close()
  }
}

/** Bytes of activations that one evaluation takes at its peak, about: 50 of the first feature map, as measured at 1024². */
export function unetActivationBytes(config: UNetConfig, { batch, height, width }: UNetOptions): number {
  return batch * config.downBlocks[0].channels * height * width * 4 * 50
}
