// Residual branches that are zero are left out of a VAE's graphs: the same numbers, for less.
import path from 'node:path'
import { expect, test } from 'vitest'
import { onnxruntimeBackend } from '#engine/backends/onnxruntime.ts'
import { vaeDecoderGraph, vaeEncoderGraph } from '#engine/models/vae.ts'
import type { NetworkSource } from '#engine/networks/network-source.ts'
import { silentResiduals } from '#engine/networks/silent-residuals.ts'
import { VaeDecoder } from '#engine/networks/vae-decoder.ts'
import { VaeEncoder } from '#engine/networks/vae-encoder.ts'
import type { StoredTensor, Weights } from '#engine/weights/checkpoint.ts'
import type { VaeConfig } from '#engine/models/vae-config.ts'
import { openCheckpoint } from '#engine/weights/open-checkpoint.ts'
import { TorchGenerator } from '#tensor/random.ts'
import { runGraph, weightsInMemory } from '../support/golden.ts'

const root = path.join(import.meta.dirname, '../..')
const size = { height: 4, width: 3 }
/** One whose input is what it adds to, and one with another number of channels. */
const [plain, withShortcut] = ['decoder.mid_block.resnets.1', 'decoder.up_blocks.1.resnets.0']
const inEncoder = 'encoder.down_blocks.0.resnets.0'

test('the decoder that ships has the two that do nothing but keep its layout', async () => {
  const { weights } = (await openCheckpoint(path.join(root, 'models/pocket'))).vae!
  const silent = [...(await silentResiduals(weights))].filter((name) => name.startsWith('decoder.'))
  expect(silent.toSorted()).toEqual(['decoder.up_blocks.4.resnets.0', 'decoder.up_blocks.5.resnets.1'])
})

test('trained residuals are none, nor those with half of a zero convolution', async () => {
  const { weights } = await tiny()
  expect(await silentResiduals(weights)).toEqual(new Set())
  const half = with0(with0(weights, `${plain}.conv2.bias`), `${withShortcut}.conv2.weight`)
  expect(await silentResiduals(half)).toEqual(new Set())
  const whole = with0(with0(half, `${plain}.conv2.weight`), `${withShortcut}.conv2.bias`)
  expect(await silentResiduals(whole)).toEqual(new Set([plain, withShortcut]))
})

test('without them picture and latents are equal to the bit, and their weights are not read', async () => {
  const { config, weights: trained } = await tiny()
  const silent = [plain, withShortcut, inEncoder]
  const weights = silent
    .flatMap((name) => [`${name}.conv2.weight`, `${name}.conv2.bias`])
    .reduce<Weights>((changed, key) => with0(changed, key), trained)
  const latents = new TorchGenerator(3).randn([1, config.latentChannels, size.height, size.width])
  const options = { precision: 'fp32', attention: 'fused', batch: 1, ...size } as const
  const { image } = await runGraph(vaeDecoderGraph(config, options), weights, { latents })
  const { moments } = await runGraph(vaeEncoderGraph(config, options), weights, { image })

  const unread = new Map(weights)
  for (const name of silent) unread.delete(`${name}.conv1.weight`)
  const backend = onnxruntimeBackend({ device: 'cpu', threads: 2, externalDataRoot: '/' })
  const source: NetworkSource<VaeConfig> = { backend, config, weights: unread, precision: 'fp32', arithmetic: 'graph' }
  await using decoder = await VaeDecoder.load(source, size)
  await using encoder = await VaeEncoder.load(source, size)
  expect(await decoder.decode(latents)).toEqual(image)
  expect(await encoder.encode(image)).toEqual(moments)
})

async function tiny(): Promise<{ config: VaeConfig; weights: Weights }> {
  const { config, weights } = (await openCheckpoint(path.join(root, 'test/golden/models/tiny-a'))).vae!
  return { config, weights: await weightsInMemory(weights) }
}

/** The weights with one tensor's bytes set to 0. */
function with0(weights: Weights, key: string): Weights {
  const stored = weights.get(key)!
  const { source } = stored
  if (!('bytes' in source)) throw new Error(`${key} is not in memory`)
  const zero: StoredTensor = { ...stored, source: { bytes: new Uint8Array(source.bytes.length) } }
  return new Map([...weights, [key, zero]])
}
