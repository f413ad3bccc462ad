import path from 'node:path'
import { expect, test } from 'vitest'
import { guidedNoise, prepareGuidance, timeIdsOf } from '#diffusion/guidance.ts'
import { onnxruntimeBackend } from '#engine/backends/onnxruntime.ts'
import { UNet } from '#engine/networks/unet.ts'
import { openCheckpoint } from '#engine/weights/open-checkpoint.ts'
import { TorchGenerator } from '#tensor/random.ts'
import { relativeError, weightsInMemory } from '../support/golden.ts'
import { tinyModels } from '../support/tiny-b-single-file.ts'

test('both predictions in one run equal two runs, and without a negative prompt guidance is off', async () => {
  const { config, weights } = (await openCheckpoint(path.join(tinyModels, 'tiny-b'))).unet
  const backend = onnxruntimeBackend({ device: 'cpu', threads: 2, externalDataRoot: '/' })
  const source = {
    backend,
    config,
    weights: await weightsInMemory(weights),
    precision: 'fp32',
    arithmetic: 'graph',
  } as const
  const generator = new TorchGenerator(5)
  const embeds = () => ({
    promptEmbeds: generator.randn([1, 77, config.crossAttentionDim]),
    pooledPromptEmbeds: generator.randn([1, config.addEmbeddingInputDim - 6 * config.additionTimeEmbedDim]),
  })
  const prompts = { positive: embeds(), negative: embeds() }
  const latents = generator.randn([1, 4, 8, 12])
  const timeIds = timeIdsOf('base', 64, 96)
  const predict = async (
    batch: number,
    encoded: typeof prompts | { positive: (typeof prompts)['positive']; negative: null },
  ) => {
    await using unet = await UNet.load(source, { batch, height: 8, width: 12, textLength: 77 })
    return await guidedNoise(prepareGuidance(unet, encoded, timeIds, 7.5), latents, 481)
  }
  const apart = await predict(1, prompts)
  expect(relativeError(await predict(2, prompts), apart)).toBeLessThan(1e-5)
  const plain = await predict(1, { positive: prompts.positive, negative: null })
  expect(relativeError(plain, apart)).toBeGreaterThan(0.05)
})
