// Residual branches that add nothing. A VAE whose outer levels are set by hand, as pocket's are, has resnets whose second
// convolution is zero: at the picture's own size each is a sixth of the decoder's time. Graphs leave them out.
import { readTensorBytes } from '#tensor/safetensors.ts'
import type { GraphWeights } from '../weights/checkpoint.ts'

/** State-dict paths of the resnets whose second convolution is zero, weight and bias: what they add is exactly zero. */
export async function silentResiduals(weights: GraphWeights): Promise<Set<string>> {
  const last = '.conv2.bias'
  const silent = new Set<string>()
  for (const key of weights.keys().filter((name) => name.endsWith(last))) {
    const path = key.slice(0, -last.length)
    // The bias first: it is small, and one that was trained is not zero.
    if ((await isZero(weights, key)) && (await isZero(weights, `${path}.conv2.weight`))) silent.add(path)
  }
  return silent
}

/** Whether every bit is 0, which is the number 0 in every format. */
async function isZero(weights: GraphWeights, key: string): Promise<boolean> {
  const stored = weights.get(key)
  return stored !== undefined && (await readTensorBytes(stored)).every((byte) => byte === 0)
}
