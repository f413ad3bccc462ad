// LoRAs in whole pictures: held against diffusers and peft, in any number, order and strength, and in a process that
// makes pictures with one after the other.
import { readFileSync } from 'node:fs'
import { mkdir, readdir } from 'node:fs/promises'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import type { BackendName, Precision } from '#engine/backend.ts'
import { loraNetworksOf } from '#engine/weights/lora/lora-networks.ts'
import { openLora } from '#engine/weights/lora/open-lora.ts'
import { openCheckpoint } from '#engine/weights/open-checkpoint.ts'
import { PipelineCache } from '#worker/pipeline-cache.ts'
import type { GenerateTask } from '#worker/protocol.ts'
import { runGenerate } from '#worker/run-generate.ts'
import { pictureDifference } from '../support/difference.ts'
import { goldenFolder } from '../support/golden.ts'
import { tinyRefiner, writeTinyInpaint } from '../support/mode-models.ts'
import { openvinoFolder } from '../support/openvino.ts'
import { modelOf, taskOf, type ParityCase } from '../support/parity-case.ts'
import { temporaryFolder } from '../support/temporary-folder.ts'

type LoraCase = ParityCase & { readonly loras: Readonly<Record<string, number>>; readonly from_plain: number }

const folder = path.join(goldenFolder, 'lora')
const cases = JSON.parse(readFileSync(path.join(folder, 'cases.json'), 'utf8')) as LoraCase[]
const caseOf = (name: string): LoraCase => cases.find((c) => c.name === name)!

/** A stand-in for a content hash: the engine takes whatever the task and its files agree on. */
const hashOf = (name: string): string => Buffer.from(name.padEnd(32, '-')).toString('hex')

async function cacheFor(
  precision: Precision = 'fp32',
  memoryLimitBytes?: number,
  backend: BackendName = 'onnxruntime',
): Promise<PipelineCache> {
  const place = await temporaryFolder('loras')
  const [cacheDir, scratchDir] = [path.join(place, 'cache'), path.join(place, 'scratch')]
  await mkdir(scratchDir)
  const settings = {
    device: 'cpu',
    backend,
    openvinoFolders: [openvinoFolder],
    precision,
    threads: 1,
    cacheDir,
    cacheLimitBytes: 1e9,
    scratchDir,
  } as const
  return new PipelineCache({ ...settings, memoryLimitBytes })
}

async function pictures(
  pipelines: PipelineCache,
  c: LoraCase,
  loras: readonly (readonly [string, number])[],
  changes: Partial<GenerateTask> = {},
): Promise<Uint8Array[]> {
  const task = { ...taskOf(c), loras: loras.map(([name, scale]) => ({ asset: hashOf(name), scale })), ...changes }
  const assets = Object.fromEntries(loras.map(([name]) => [hashOf(name), path.join(folder, `${name}.safetensors`)]))
  const made: Uint8Array[] = []
  await runGenerate(
    task,
    { checkpoint: modelOf(c), refiner: task.refiner && tinyRefiner, pictures: {}, assets },
    {
      pipelines,
      onProgress: () => undefined,
      onImage: async (index, _seed, bytes) => {
        made[index] = new Uint8Array(bytes)
      },
    },
  )
  return made
}

describe('the same LoRAs give the picture of the reference', () => {
  const onBoth = ['a-several', 'b-several', 'pocket-lora']
  const runs = cases.map((c) => [c.name, 'onnxruntime', c] as const)
  const others = onBoth.map((name) => [name, 'openvino', caseOf(name)] as const)
  test.each([...runs, ...others])('%s on %s', async (name, backend, c) => {
    await using pipelines = await cacheFor('fp32', undefined, backend)
    expect(c.from_plain).toBeGreaterThan(2)
    const [picture] = await pictures(pipelines, c, Object.entries(c.loras))
    const { mean, max } = await pictureDifference(picture, path.join(folder, `${name}.png`))
    expect(mean).toBeLessThanOrEqual(0.02)
    expect(max).toBeLessThanOrEqual(1)
  })

  test.each(['a-several', 'b-lokr', 'b-several'])('%s in fp16 stays close', async (name) => {
    await using pipelines = await cacheFor('fp16')
    const [picture] = await pictures(pipelines, caseOf(name), Object.entries(caseOf(name).loras))
    expect((await pictureDifference(picture, path.join(folder, `${name}.png`))).mean).toBeLessThanOrEqual(2)
  })
})

test('at strength 0 the picture is the one without, bit for bit', async () => {
  await using pipelines = await cacheFor()
  const c = caseOf('b-lora')
  const [plain] = await pictures(pipelines, c, [], { imageEncoding: 'jpeg' })
  const none = Object.keys(caseOf('b-several').loras).map((name) => [name, 0] as const)
  expect(Buffer.compare((await pictures(pipelines, c, none, { imageEncoding: 'jpeg' }))[0], plain)).toBe(0)
  const [after] = await pictures(pipelines, c, [['b-lora', 1]], { imageEncoding: 'jpeg' })
  expect(Buffer.compare(after, plain)).not.toBe(0)
  expect(Buffer.compare((await pictures(pipelines, c, [], { imageEncoding: 'jpeg' }))[0], plain)).toBe(0)
})

test('the order of LoRAs does not matter, and a batch is its pictures made alone', async () => {
  await using pipelines = await cacheFor()
  const c = caseOf('a-several')
  const loras = Object.entries(c.loras)
  const jpeg = { imageEncoding: 'jpeg' } as const
  const [picture] = await pictures(pipelines, c, loras, jpeg)
  expect(Buffer.compare((await pictures(pipelines, c, loras.toReversed(), jpeg))[0], picture)).toBe(0)
  const both = await pictures(pipelines, c, loras, { ...jpeg, seeds: [c.seed, 99] })
  expect(Buffer.compare(both[0], picture)).toBe(0)
  expect(Buffer.compare(both[1], picture)).not.toBe(0)
})

test('a refiner goes on without them: they end at the switch', async () => {
  await using pipelines = await cacheFor()
  const c = caseOf('a-lora')
  const refined = { refiner: { denoisingEnd: 0.5 }, imageEncoding: 'jpeg' } as const
  const [plain] = await pictures(pipelines, c, [], refined)
  const [picture] = await pictures(pipelines, c, [['a-lora', 1]], refined)
  expect(Buffer.compare(picture, plain)).not.toBe(0)
  // Encoders and UNet of the base model twice, of the refiner once.
  const kinds = Map.groupBy(pipelines.loaded, (key) => key.split(' ')[0])
  expect([kinds.get('textEncoder')?.length, kinds.get('unet')?.length]).toEqual([5, 3])
  expect(pipelines.loaded.filter((key) => key.includes(' loras '))).toHaveLength(3)
})

test('a model for inpainting takes them, as long as they leave its wider first convolution alone', async () => {
  const place = await temporaryFolder('inpaint')
  const inpaint = loraNetworksOf(await openCheckpoint(await writeTinyInpaint(place)))
  const fits = await openLora(path.join(folder, 'a-peft.safetensors'), inpaint)
  expect(fits.report.tensorsUsed).toBe(fits.report.tensorsPresent)
  await expect(openLora(path.join(folder, 'a-lora.safetensors'), inpaint)).rejects.toThrow(
    'lora_unet_conv_in.lora_down.weight has the shape [2, 4, 3, 3], the network needs [2, 9, 3, 3]',
  )
})

test('a PNG names the LoRAs that it was made with', async () => {
  await using pipelines = await cacheFor()
  const [png] = await pictures(pipelines, caseOf('a-lora'), [['a-lora', -0.25]])
  expect(Buffer.from(png).toString('latin1')).toContain(`loras\0${hashOf('a-lora')}:-0.25`)
})

test('a LoRA that does not fit the model is told before a weight is read', async () => {
  await using pipelines = await cacheFor()
  const c = caseOf('a-lora')
  for (const scale of [1, 0])
    await expect(pictures(pipelines, c, [['b-lora', scale]])).rejects.toMatchObject({
      code: 'wrong_architecture',
      field: 'loras',
      message: expect.stringMatching(
        /^lora b-lora\.safetensors does not fit the model: \d+ of \d+ tensors fit;.*first misfits: lora_/,
      ),
    })
  expect(pipelines.loaded).toEqual([])
  // Not even hashed: that would have left the index in the cache.
  await expect(readdir(pipelines.settings.cacheDir)).rejects.toThrow('ENOENT')
})

test('LoRAs on the same modules share a network, and others take turns', async () => {
  await using pipelines = await cacheFor()
  const c = caseOf('b-lora')
  const quick = { numInferenceSteps: 1 }
  await pictures(pipelines, c, [['b-lora', 1]], quick)
  const loaded = pipelines.loaded.length
  await pictures(pipelines, c, [['b-lora', 0.5]], quick)
  expect(pipelines.loaded).toHaveLength(loaded)
  const names = ['b-lora', 'b-loha', 'b-lokr', 'b-dora', 'b-full', 'b-ia3', 'b-tucker']
  let most = 0
  for (let round = 0; round < 20; round++) {
    const chosen = names.filter((_, index) => (round >> (index % 5)) % 2 === 1)
    await pictures(
      pipelines,
      c,
      chosen.map((name) => [name, 1 + (round % 2)] as const),
      quick,
    )
    most = Math.max(most, pipelines.loaded.length)
  }
  // Two with LoRAs and one without, of each of the three networks, and the decoder.
  expect(most).toBeLessThanOrEqual(10)
})

test('merged weights are kept in the cache, once a set of LoRAs and strengths', async () => {
  await using pipelines = await cacheFor()
  const c = caseOf('b-full')
  const filesOf = (): Promise<string[]> => readdir(path.join(pipelines.settings.cacheDir, 'weights'))
  const [first] = await pictures(pipelines, c, [['b-full', 1]])
  const kept = await filesOf()
  await pipelines[Symbol.asyncDispose]()
  const [second] = await pictures(pipelines, c, [['b-full', 1]])
  expect(await filesOf()).toEqual(kept)
  expect(Buffer.compare(first, second)).toBe(0)
  await pictures(pipelines, c, [['b-full', 0.5]])
  expect((await filesOf()).length).toBeGreaterThan(kept.length)
})
