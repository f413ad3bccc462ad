import type { Value } from '../onnx/graph-builder.ts'
import { conv2d, groupNorm, linear, silu } from '../onnx/layers.ts'
import type { UNetScope } from './unet-scope.ts'

/** A residual block conditioned on the time embedding (diffusers' ResnetBlock2D). (B, in, H, W) → (B, out, H, W). */
export function resnetBlock({ g, config, temb }: UNetScope, x: Value, path: string, outChannels: number): Value {
  const { normNumGroups: groups, normEps: epsilon } = config
  const [batch, inChannels] = x.shape as [number, number, number, number]
  const hidden = conv2d(g, silu(g, groupNorm(g, x, `${path}.norm1`, groups, epsilon)), `${path}.conv1`, outChannels)
  const shortcut = inChannels === outChannels ? x : conv2d(g, x, `${path}.conv_shortcut`, outChannels, { kernel: 1 })

  const shiftOnly = config.resnetTimeScaleShift === 'default'
  const embedded = linear(g, temb, `${path}.time_emb_proj`, shiftOnly ? outChannels : outChannels * 2)
  const perChannel = (value: Value): Value => g.reshape(value, [batch, outChannels, 1, 1])
  const norm2 = (value: Value): Value => groupNorm(g, value, `${path}.norm2`, groups, epsilon)

  let conditioned: Value
  if (shiftOnly) {
    conditioned = norm2(g.add(hidden, perChannel(embedded)))
  } else {
    const half = [batch, outChannels]
    const [scale, shift] = g.split('Split', [embedded], [half, half], { attributes: { axis: 1, num_outputs: 2 } })
    const onePlusScale = g.add(perChannel(scale), g.floats('one', [], [1]))
    conditioned = g.add(g.multiply(norm2(hidden), onePlusScale), perChannel(shift))
  }
  return g.add(shortcut, conv2d(g, silu(g, conditioned), `${path}.conv2`, outChannels))
}
