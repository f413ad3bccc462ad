// A VAE's decoder that holds one map of its finest level and little more: its last blocks are computed a strip of rows at a
// time, one layer after the other (models/vae-strips.ts). The result is the whole decoder's but for the last bits.
import { readTensorF32 } from '#tensor/safetensors.ts'
import { zeros, type Tensor } from '#tensor/tensor.ts'
import { AppError } from '../../errors.ts'
import type { Session } from '../backend.ts'
import { epsilon } from '../models/vae.ts'
import { vaeScaleFactor, type VaeConfig } from '../models/vae-config.ts'
import {
  hasShortcut,
  normOf,
  stripFactor,
  stripGraph,
  stripPasses,
  vaeDecoderHeadGraph,
  type StripPass,
} from '../models/vae-strips.ts'
import { createSession, type NetworkSource } from './network-source.ts'
import { StripMap, type Moments } from './strip-map.ts'

type Size = { readonly height: number; readonly width: number }

/** A piece of the decoder that is loaded: a session for each height of strips, and the norm that it begins with. */
type LoadedPass = AsyncDisposable & {
  readonly sessions: ReadonlyMap<number, Session>
  readonly norm: { readonly weight: Tensor; readonly bias: Tensor } | null
}

/**
 * Bytes of one strip of the widest map, at most; a piece takes a few times as much while it runs. OpenVINO's sessions keep
 * that memory from run to run, each for itself.
 */
const stripBytesOf = { onnxruntime: 24 << 20, openvino: 8 << 20 } as const

const options = { weightsInPlace: false, keepActivations: false }

/**
 * A decoder in strips for one size. Its pieces are loaded when their turn comes, a hundredth of the time that they run, and
 * closed when it is over: weights and buffers of all of them took half a gigabyte, on OpenVINO a whole one.
 */
export class StripDecoder implements AsyncDisposable {
  readonly #source: NetworkSource<VaeConfig>
  readonly #size: Size
  /** Rows of latents of each strip. */
  readonly #heights: readonly number[]

  private constructor(source: NetworkSource<VaeConfig>, size: Size, heights: readonly number[]) {
    this.#source = source
    this.#size = size
    this.#heights = heights
  }

  /** A decoder for latents of one size. Throws `wrong_architecture` where there is nothing to cut. */
  static async load(
    source: NetworkSource<VaeConfig>,
    size: Size,
    stripBytes: number = stripBytesOf[source.backend.name],
  ): Promise<StripDecoder> {
    stripPasses(source.config)
    return new StripDecoder(source, size, stripHeights(source.config, size, stripBytes))
  }

  /** Unscaled latents (1, latentChannels, h, w) → picture (1, outChannels, H, W), about −1..1. */
  async decode(latents: Tensor): Promise<Tensor> {
    const { config } = this.#source
    let factor = stripFactor(config)
    let x = await this.#head(latents, factor)
    let residual = x
    for (const pass of stripPasses(config)) {
      await using loaded = await this.#load(pass, factor)
      const { norm, sessions } = loaded
      const feeds = norm && scaleAndShift(norm, x.moments(config.normNumGroups))
      const next = new StripMap(pass.outChannels, x.width * (pass.kind === 'upsample' ? 2 : 1))
      // What a resnet adds its result to: its input, or the shortcut's output where channels differ.
      const shortcut = new StripMap(pass.outChannels, x.width)
      const keepsInput = pass.kind === 'first' && !hasShortcut(pass)
      if (keepsInput) residual = x
      for (const strip of x.strips({ consume: !keepsInput })) {
        const outputs = await sessions.get(strip.rows)!.run({
          x: strip.padded,
          ...(feeds && { ...feeds, inside: strip.inside }),
          ...(pass.kind === 'second' && { residual: residual.take(strip.index) }),
        })
        next.push(outputs['y'])
        if ('shortcut' in outputs) shortcut.push(outputs['shortcut'])
      }
      if (hasShortcut(pass)) residual = shortcut
      if (pass.kind === 'upsample') factor *= 2
      x = next
    }
    return x.join()
  }

  /** The first blocks, whole, as the map that the strips begin with. */
  async #head(latents: Tensor, factor: number): Promise<StripMap> {
    const { backend, config, precision } = this.#source
    const attention = backend.device === 'webgpu' ? 'plain' : 'fused'
    const graph = vaeDecoderHeadGraph(config, { precision, attention, batch: 1, ...this.#size })
    await using session = await createSession(this.#source, [graph], options)
    const { map } = await session.run({ latents })
    return StripMap.cut(
      map,
      this.#heights.map((height) => height * factor),
    )
  }

  /** A piece that reads a map `factor` times as fine as the latents. */
  async #load(pass: StripPass, factor: number): Promise<LoadedPass> {
    await using opened = new AsyncDisposableStack()
    const sessions = new Map<number, Session>()
    for (const height of new Set(this.#heights)) {
      const rows = height * factor
      const strip = stripGraph(pass, { rows, width: this.#size.width * factor })
      sessions.set(rows, opened.use(await createSession(this.#source, [strip], options)))
    }
    const path = normOf(pass)
    const read = async (name: string): Promise<Tensor> => {
      const stored = this.#source.weights.get(`${path}.${name}`)
      if (!stored || stored.dtype === 'I8') throw new AppError('internal', `vae: ${path}.${name} is no number format`)
      return await readTensorF32(stored)
    }
    const norm = path === null ? null : { weight: await read('weight'), bias: await read('bias') }
    const kept = opened.move()
    return { sessions, norm, [Symbol.asyncDispose]: () => kept.disposeAsync() }
  }

  /** Nothing to do: no piece outlives its turn. Here so that a decoder is closed in the same way whatever it is. */
  async [Symbol.asyncDispose](): Promise<void> {}
}

/** A norm over groups of channels as a factor and a summand for each channel, (C, 1, 1). */
function scaleAndShift(
  { bias, weight }: NonNullable<LoadedPass['norm']>,
  moments: readonly Moments[],
): { scale: Tensor; shift: Tensor } {
  const channels = weight.data.length
  const [scale, shift] = [zeros([channels, 1, 1]), zeros([channels, 1, 1])]
  for (let channel = 0; channel < channels; channel++) {
    const { mean, variance } = moments[Math.floor((channel * moments.length) / channels)]
    const factor = weight.data[channel] / Math.sqrt(variance + epsilon)
    scale.data[channel] = factor
    shift.data[channel] = bias.data[channel] - mean * factor
  }
  return { scale, shift }
}

/** Rows of latents of each strip: at most two heights, so that there are at most two sessions a piece. */
function stripHeights(config: VaeConfig, { height, width }: Size, stripBytes: number): number[] {
  const factor = vaeScaleFactor(config)
  const rowBytes = width * factor * factor * widestChannels(config) * 4
  const count = Math.ceil(height / Math.max(1, Math.floor(stripBytes / rowBytes)))
  return Array.from(
    { length: count },
    (_, index) => Math.floor(((index + 1) * height) / count) - Math.floor((index * height) / count),
  )
}

/** Channels of the widest map of the picture's own size. */
function widestChannels({ blockOutChannels }: VaeConfig): number {
  return blockOutChannels[1] ?? blockOutChannels[0]
}

/** Bytes of activations that decoding in strips takes at its peak, about: the widest map of the picture's size, and some strips. */
export function stripDecodeBytes(config: VaeConfig, { height, width }: Size): number {
  return height * width * vaeScaleFactor(config) ** 2 * widestChannels(config) * 4 * 1.1 + 12 * stripBytesOf.onnxruntime
}
