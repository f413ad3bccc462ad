// The decoder's last blocks, cut so that each piece sees a strip of rows alone. A convolution needs one row above and one
// below; a GroupNorm needs the whole map, so every piece ends where a norm begins: mean and deviation of the whole map are
// known by then and come in as scale and shift. Nothing is approximated, and nothing is computed twice.
import { AppError } from '../../errors.ts'
import { GraphBuilder, type Graph, type Value } from '../onnx/graph-builder.ts'
import { conv2d, silu, upsample } from '../onnx/layers.ts'
import { decoderBlocks, type VaeGraphOptions } from './vae.ts'
import type { VaeConfig } from './vae-config.ts'

/** A piece of the decoder. `inChannels` and `outChannels` are those of the maps that it reads and writes. */
export type StripPass = {
  /**
   * `upsample`: twice the rows and columns, and a convolution. `first` and `second`: the halves of a resnet.
   * `out`: the picture.
   */
  readonly kind: 'upsample' | 'first' | 'second' | 'out'
  readonly path: string
  readonly inChannels: number
  readonly outChannels: number
}

/** Rows and columns of the map that a piece reads, without the rows round a strip. */
export type StripSize = { readonly rows: number; readonly width: number }

/** Up blocks that are computed whole: those whose maps are small beside the last two's. */
function wholeBlocks(config: VaeConfig): number {
  return Math.max(1, config.blockOutChannels.length - 2)
}

/** How much finer than the latents the first map is that is cut into strips. */
export function stripFactor(config: VaeConfig): number {
  return 2 ** (wholeBlocks(config) - 1)
}

/** Latents → the map that the strips begin with. Input: `latents` (B, latentChannels, h, w). Output: `map` (B, C, H, W). */
export function vaeDecoderHeadGraph(config: VaeConfig, options: VaeGraphOptions): Graph {
  const g = new GraphBuilder('vae decoder, first blocks', options.precision)
  g.output('map', decoderBlocks(g, config, options, wholeBlocks(config)))
  return g.finish()
}

/** The pieces in their order. Throws `wrong_architecture` for a decoder without upsampling, which has no such pieces. */
export function stripPasses(config: VaeConfig): StripPass[] {
  const channels = config.blockOutChannels.toReversed()
  if (channels.length < 2) throw new AppError('wrong_architecture', 'vae: a decoder of one block has no strips')
  const passes: StripPass[] = []
  let inChannels = channels[wholeBlocks(config) - 1]
  for (let block = wholeBlocks(config); block < channels.length; block++) {
    const sampler = `decoder.up_blocks.${block - 1}.upsamplers.0.conv`
    passes.push({ kind: 'upsample', path: sampler, inChannels, outChannels: inChannels })
    const outChannels = channels[block]
    for (let layer = 0; layer <= config.layersPerBlock; layer++) {
      const path = `decoder.up_blocks.${block}.resnets.${layer}`
      passes.push({ kind: 'first', path, inChannels, outChannels })
      passes.push({ kind: 'second', path, inChannels: outChannels, outChannels })
      inChannels = outChannels
    }
  }
  passes.push({ kind: 'out', path: 'decoder', inChannels, outChannels: config.outChannels })
  return passes
}

/** State-dict path of the norm that a piece begins with; null for one without. */
export function normOf({ kind, path }: StripPass): string | null {
  if (kind === 'upsample') return null
  return `${path}.${({ first: 'norm1', second: 'norm2', out: 'conv_norm_out' } as const)[kind]}`
}

/** Whether the first half of a resnet also makes what its second half adds to: another number of channels. */
export function hasShortcut({ kind, inChannels, outChannels }: StripPass): boolean {
  return kind === 'first' && inChannels !== outChannels
}

/**
 * One piece over one strip. Inputs: `x` (1, inChannels, rows + 2, width), the strip with a row of its neighbours or of
 * zeros above and below; where it begins with a norm, `scale` and `shift` (inChannels, 1, 1) that stand for it, and
 * `inside` (1, 1, rows + 2, 1), 0 for rows outside the map and 1 else; for a second half `residual`
 * (1, outChannels, rows, width). Outputs: `y`, twice as large for upsampling, and `shortcut` where there is one.
 */
export function stripGraph(pass: StripPass, { rows, width }: StripSize): Graph {
  const { inChannels, kind, outChannels, path } = pass
  const g = new GraphBuilder(`vae decoder, strip of ${path}`, 'fp32')
  const x = g.input('x', [1, inChannels, rows + 2, width])
  if (kind === 'upsample') {
    const fine = withoutEnds(g, upsample(g, x, (rows + 2) * 2, width * 2))
    g.output('y', convolution(g, fine, path, outChannels))
    return g.finish()
  }
  const perChannel = [inChannels, 1, 1]
  const normed = g.add(g.multiply(x, g.input('scale', perChannel)), g.input('shift', perChannel))
  // What lies outside the map is zero for the convolution, whatever norm and activation would make of it.
  const active = g.multiply(silu(g, normed), g.input('inside', [1, 1, rows + 2, 1]))
  switch (kind) {
    case 'first':
      g.output('y', convolution(g, active, `${path}.conv1`, outChannels))
      if (hasShortcut(pass))
        g.output('shortcut', conv2d(g, withoutEnds(g, x), `${path}.conv_shortcut`, outChannels, { kernel: 1 }))
      break
    case 'second': {
      const residual = g.input('residual', [1, outChannels, rows, width])
      g.output('y', g.add(residual, convolution(g, active, `${path}.conv2`, outChannels)))
      break
    }
    case 'out':
      g.output('y', convolution(g, active, `${path}.conv_out`, outChannels))
  }
  return g.finish()
}

/** Without the first and the last row. (1, C, H, W) → (1, C, H − 2, W) */
function withoutEnds(g: GraphBuilder, x: Value): Value {
  const [batch, channels, height, width] = x.shape as [number, number, number, number]
  const [starts, ends, axes] = [g.integers([1]), g.integers([height - 1]), g.integers([2])]
  return g.node('Slice', [x, starts, ends, axes], [batch, channels, height - 2, width])
}

/** A 3×3 convolution padded on the left and right alone. (1, C, H, W) → (1, outChannels, H − 2, W) */
function convolution(g: GraphBuilder, x: Value, path: string, outChannels: number): Value {
  const [batch, channels, height, width] = x.shape as [number, number, number, number]
  const weights = [g.weight(`${path}.weight`, [outChannels, channels, 3, 3]), g.weight(`${path}.bias`, [outChannels])]
  return g.node('Conv', [x, ...weights], [batch, outChannels, height - 2, width], {
    attributes: { kernel_shape: [3, 3], strides: [1, 1], pads: [0, 1, 0, 1] },
    name: path,
  })
}
