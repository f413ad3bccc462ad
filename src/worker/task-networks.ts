// The pipeline's networks, out of the cache of what is loaded.
import type { DenoiserNetworks, Networks } from '#diffusion/networks.ts'
import { vaeScaleFactor, type VaeConfig } from '#engine/models/vae-config.ts'
import { TextEncoder } from '#engine/networks/text-encoder.ts'
import { UNet, unetActivationBytes } from '#engine/networks/unet.ts'
import { VaeDecoder, vaeDecodeBytes } from '#engine/networks/vae-decoder.ts'
import { VaeEncoder, vaeEncodeBytes } from '#engine/networks/vae-encoder.ts'
import type { Component } from '#engine/weights/checkpoint.ts'
import { AppError } from '../errors.ts'
import type { NetworkRequest, OpenModel, PipelineCache } from './pipeline-cache.ts'
import type { TaskLoras } from './task-loras.ts'
import type { Progress } from './protocol.ts'

/** How the networks of one task are had. */
export type NetworkHooks = {
  readonly pipelines: PipelineCache
  readonly onProgress: (progress: Progress) => void
  /** Runs a loading, so that its time is counted apart; afterwards the phase before it goes on. */
  readonly duringLoad: <T>(load: () => Promise<T>) => Promise<T>
  /** Told after a loading that was shown as progress. */
  readonly onLoaded: () => void
  readonly onWarning: (warning: string) => void
  /** No other picture will want the UNet again. */
  readonly onlyPicture?: boolean
}

type Load = <Config extends object, Options, Network extends AsyncDisposable>(
  request: NetworkRequest<Config, Options, Network>,
) => Promise<Network>

/** Rows and columns of latents that go through a VAE at once. */
type LatentSize = { readonly height: number; readonly width: number }

/** Memory for the activations of a text encoder over 77 tokens, in bytes: small against everything else. */
const textActivationBytes = 64 << 20
/** The smallest tile when memory is short: below it there is too little picture round each pixel. */
const minTilePixels = 256
const minTileLatents = 8

/** The networks of a model, its refiner's and its VAE's. LoRAs are the base model's: they do not fit a refiner. */
export function taskNetworks(
  opened: OpenModel,
  refiner: OpenModel | null,
  vae: Component<VaeConfig>,
  loras: TaskLoras,
  hooks: NetworkHooks,
): Networks {
  const load = loaderOf(opened, hooks)
  return {
    ...denoiserNetworks(opened, loras, hooks),
    refiner: refiner && denoiserNetworks(refiner, null, hooks),
    vaeEncoder: (options) =>
      load({
        kind: 'vaeEncoder',
        component: vae,
        options,
        activationBytes: vaeEncodeBytes(vae.config, options),
        load: (source) => VaeEncoder.load(source, options),
      }),
    vaeDecoder: async (options) => {
      // A UNet whose weights are mapped is back in a moment for the next picture; packed ones take seconds.
      const { backend } = await hooks.pipelines.choice()
      if (hooks.onlyPicture || backend === 'onnxruntime') await hooks.pipelines.closeAfterUse('unet')
      return await load({
        kind: 'vaeDecoder',
        component: vae,
        options,
        activationBytes: vaeDecodeBytes(vae.config, options),
        load: (source) => VaeDecoder.load(source, options),
      })
    },
    encodeEdgeLimit: (size) =>
      edgeLimit(vae.config, size, vaeEncodeBytes, hooks, (edge) => {
        return `memory was short: the picture to start from was encoded in tiles of ${edge} latents, which changes it slightly`
      }),
    decodeEdgeLimit: (size) =>
      edgeLimit(vae.config, size, vaeDecodeBytes, hooks, (edge) => {
        return `memory was short: the picture was decoded in tiles of ${edge} latents, which changes it slightly`
      }),
  }
}

/** The networks of one denoiser without its VAE. */
export function denoiserNetworks(opened: OpenModel, loras: TaskLoras | null, hooks: NetworkHooks): DenoiserNetworks {
  const { path, textEncoder, textEncoder2, unet } = opened.checkpoint
  const load = loaderOf(opened, hooks)
  return {
    guidanceBatch: hooks.pipelines.settings.device === 'cpu' ? 1 : 2,
    textEncoder: (which, options) => {
      const component = which === 'textEncoder' ? textEncoder : textEncoder2
      if (!component) throw new AppError('internal', `model ${path}: it has no ${which}`)
      return load({
        kind: 'textEncoder',
        component,
        options,
        activationBytes: textActivationBytes,
        loras: loras?.[which] ?? null,
        load: (...args) => TextEncoder.load(...args),
      })
    },
    unet: async (wanted) => {
      await hooks.pipelines.closeAfterUse('textEncoder', 'vaeEncoder')
      const options = (await packsWeights(hooks.pipelines)) ? { ...wanted, textLength: null } : wanted
      return await load({
        kind: 'unet',
        component: unet,
        options,
        activationBytes: unetActivationBytes(unet.config, options),
        loras: loras?.unet ?? null,
        load: (...args) => UNet.load(...args),
      })
    },
  }
}

/** Whether a UNet takes seconds to load, as OpenVINO's do: then one is loaded for prompts of any length, not one for each. */
async function packsWeights(pipelines: PipelineCache): Promise<boolean> {
  return (await pipelines.choice()).backend === 'openvino' && pipelines.settings.device === 'cpu'
}

function loaderOf(opened: OpenModel, { duringLoad, onLoaded, onProgress, pipelines }: NetworkHooks): Load {
  return (request) =>
    duringLoad(async () => {
      let told = false
      const network = await pipelines.network(opened, request, (progress) => {
        told = true
        onProgress(progress)
      })
      if (told) onLoaded()
      return network
    })
}

/** The longest edge in latents whose activations fit into memory, after other networks have made room; null: all fit. */
async function edgeLimit(
  config: VaeConfig,
  size: LatentSize,
  bytesOf: (config: VaeConfig, size: LatentSize) => number,
  { onWarning, pipelines }: NetworkHooks,
  words: (edge: number) => string,
): Promise<number | null> {
  const available = await pipelines.makeRoom(bytesOf(config, size))
  if (available >= bytesOf(config, size)) return null
  const smallest = Math.max(minTileLatents, Math.ceil(minTilePixels / vaeScaleFactor(config)))
  const longest = Math.max(size.height, size.width)
  let edge = longest
  while (edge > smallest && bytesOf(config, { height: edge, width: edge }) > available) edge -= 1
  if (edge === longest) return null
  onWarning(words(edge))
  return edge
}
