// Files under the names of every trainer: the same modules whatever the spelling, and nothing left over.
import { readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { expect, test } from 'vitest'
import { openCheckpoint } from '#engine/weights/open-checkpoint.ts'
import type { Lora } from '#engine/weights/lora/lora.ts'
import { readBranches } from '#engine/weights/lora/lora-branches.ts'
import { loraNames } from '#engine/weights/lora/lora-names.ts'
import { loraNetworksOf, standardSdxlNetworks } from '#engine/weights/lora/lora-networks.ts'
import { checkLoraValues } from '#engine/weights/lora/lora-values.ts'
import { openLora } from '#engine/weights/lora/open-lora.ts'
import { openSafetensors, readTensorBytes } from '#tensor/safetensors.ts'
import { writeSafetensors, type NewTensor } from '#tensor/safetensors-writer.ts'
import { goldenFolder } from '../support/golden.ts'
import { temporaryFolder } from '../support/temporary-folder.ts'
import { tinyModels } from '../support/tiny-b-single-file.ts'

const folder = path.join(goldenFolder, 'lora')
const listed = JSON.parse(await readFile(path.join(folder, 'names.json'), 'utf8')) as Record<string, string[]>
const tinyA = loraNetworksOf(await openCheckpoint(path.join(tinyModels, 'tiny-a')))
const tinyB = loraNetworksOf(await openCheckpoint(path.join(tinyModels, 'tiny-b')))

const fileOf = (name: string): string => path.join(folder, `${name}.safetensors`)
const wireNames = { unet: 'unet', textEncoder: 'text_encoder', textEncoder2: 'text_encoder_2' } as const
const placesOf = ({ modules }: Lora): string[] =>
  modules.map(({ target }) => `${wireNames[target.network]} ${target.path}`).sort()

test.each(Object.keys(listed))('names as %s writes them are all found, and mean the same', async (scheme) => {
  const lora = await openLora(fileOf(`names-${scheme}`), tinyB)
  expect(placesOf(lora)).toEqual(listed[scheme].toSorted())
  expect(lora.report.tensorsUsed).toBe(lora.report.tensorsPresent)
  const reference = await openLora(fileOf('names-kohya'), tinyB)
  for (const module of lora.modules) {
    const same = reference.modules.find(({ target }) => target === module.target)!
    const [branch] = (await readBranches([{ module, strength: 1 }])).values()
    const [expected] = (await readBranches([{ module: same, strength: 1 }])).values()
    expect(branch).toEqual(expected)
  }
})

const pictured = ['a-lora', 'a-loha', 'a-peft', 'a-peft-dora', 'b-lora', 'b-tucker', 'b-loha', 'b-lokr', 'b-dora']

test.each([...pictured, 'b-full', 'b-ia3'])('the report of %s', async (name) => {
  const lora = await openLora(fileOf(name), name.startsWith('a-') ? tinyA : tinyB)
  await checkLoraValues(lora)
  const { families, doraModules, modules, rank } = lora.report
  expect({ families, doraModules, modules, rank }).toMatchSnapshot()
})

/** A copy of a file with its tensors renamed, left out (null) or replaced. */
async function rewrite(name: string, change: (tensor: string) => string | null, metadata = {}): Promise<string> {
  const { path: source, tensors } = await openSafetensors(fileOf(name))
  const entries: (NewTensor & { from: string })[] = []
  for (const [from, { dtype, shape }] of tensors) {
    const to = change(from)
    if (to !== null) entries.push({ name: to, dtype, shape, from })
  }
  const target = path.join(await temporaryFolder('lora'), 'lora.safetensors')
  await writeSafetensors(
    target,
    entries,
    async function* (_entry, index) {
      const { offset, length } = tensors.get(entries[index].from)!
      yield await readTensorBytes({ source: { file: source, offset, length } })
    },
    metadata,
  )
  return target
}

/** Tensors that a file is whole without: the module is changed in another way then, or not at all. */
const isOptional = (tensor: string): boolean => /\.(alpha|dora_scale|diff|diff_b|lora_magnitude_vector)$/.test(tensor)

test.each([...pictured.slice(2), 'b-full', 'b-ia3'])(
  '%s: whichever tensor is missing or misspelt is named',
  async (name) => {
    const networks = name.startsWith('a-') ? tinyA : tinyB
    const { tensors } = await openSafetensors(fileOf(name))
    // One of each part: the modules are alike.
    const samples = new Map<string, string>()
    for (const tensor of tensors.keys()) samples.set(/[^.]+(\.weight)?$/.exec(tensor)![0], tensor)
    for (const sample of samples.values()) {
      const misspelt = await rewrite(name, (tensor) => (tensor === sample ? `${tensor.slice(0, -1)}x` : tensor))
      await expect(openLora(misspelt, networks)).rejects.toThrow(`${sample.slice(0, -1)}x names no module`)
      if (isOptional(sample)) continue
      const lacking = await rewrite(name, (tensor) => (tensor === sample ? null : tensor))
      await expect(openLora(lacking, networks)).rejects.toMatchObject({
        code: 'wrong_architecture',
        message: expect.stringContaining(sample),
      })
    }
  },
)

test('a part that the file has under two spellings is refused', async () => {
  const { tensors } = await openSafetensors(fileOf('names-kohya'))
  expect([...tensors.keys()]).toContain('lora_unet_time_embed_0.lora_down.weight')
  const twice = await rewrite('names-kohya', (tensor) =>
    tensor.replace('lora_unet_time_embed_2.', 'lora_unet_time_embedding_linear_1.'),
  )
  await expect(openLora(twice, tinyB)).rejects.toThrow('is the same part of the same module as lora_unet_time_embed')
})

test('a LoRA of another architecture is refused with its name', async () => {
  const older = (tensor: string): string => tensor.replace('lora_te1_', 'lora_te_')
  await expect(openLora(await rewrite('b-lora', older), tinyB)).rejects.toThrow('Stable Diffusion 1.x or 2.x')
  const flux = (tensor: string): string => tensor.replace('lora_unet_middle_block_', 'lora_unet_double_blocks_')
  await expect(openLora(await rewrite('b-lora', flux), tinyB)).rejects.toThrow('it looks like a LoRA of Flux')
  const metadata = { ss_base_model_version: 'sd_v1' }
  const named = openLora(await rewrite('b-lora', (tensor) => tensor, metadata), standardSdxlNetworks())
  await expect(named).rejects.toThrow(
    /does not fit Stable Diffusion XL: 0 of \d+ tensors fit;.*"sd_v1"; first misfits:/,
  )
  const oft = await rewrite('b-lora', (tensor) => tensor.replace('.lora_down.weight', '.oft_blocks'))
  await expect(openLora(oft, tinyB)).rejects.toThrow('it has OFT and BOFT, which are not supported')
})

test('NaN in a tensor is found', async () => {
  const target = path.join(await temporaryFolder('lora'), 'nan.safetensors')
  const bytes = await readFile(fileOf('b-lora'))
  const { tensors } = await openSafetensors(fileOf('b-lora'))
  const [name, { offset }] = [...tensors].find(([key]) => key.endsWith('lora_up.weight'))!
  bytes.writeUInt16LE(0x7e00, offset)
  await writeFile(target, bytes)
  const lora = await openLora(target, tinyB)
  await expect(checkLoraValues(lora)).rejects.toMatchObject({
    code: 'not_finite',
    message: expect.stringContaining(name),
  })
})

test('words and the picture of the metadata are short and plain', async () => {
  const counts = { '10_dog': { '<b>sks</b> dog': 10, grass: 12 }, '5_more': { grass: 1 } }
  const metadata = {
    ss_tag_frequency: JSON.stringify(counts),
    'modelspec.architecture': 'stable-diffusion-xl-v1-base/lora',
    'modelspec.thumbnail': 'data:image/png;base64,AAEC',
  }
  const { report } = await openLora(await rewrite('b-lora', (tensor) => tensor, metadata), tinyB)
  expect(report.triggerWords).toEqual(['grass', 'b sks /b  dog'])
  expect(report.baseModel).toBe('stable-diffusion-xl-v1-base/lora')
  expect(report.thumbnail).toEqual({ mediaType: 'image/png', bytes: Uint8Array.of(0, 1, 2) })
  const phrase = { ...metadata, 'modelspec.trigger_phrase': `sks\u0007 ${'x'.repeat(500)}` }
  const other = await openLora(await rewrite('b-lora', (tensor) => tensor, phrase), tinyB)
  expect(other.report.triggerWords).toEqual([`sks  ${'x'.repeat(95)}`])
})

test("kohya's names of SDXL's modules stand for what diffusers takes them for", async () => {
  const text = await readFile(path.join(folder, 'sdxl-names.json'), 'utf8')
  const expected = JSON.parse(text) as Record<string, string>
  expect(Object.keys(expected).length).toBeGreaterThan(100)
  const { modules } = loraNames(standardSdxlNetworks())
  for (const [name, module] of Object.entries(expected)) expect([name, modules.get(name)?.path]).toEqual([name, module])
})

test("SDXL's own networks have as many modules as its LoRAs", () => {
  const { targets } = standardSdxlNetworks()
  const isText = (network: string): boolean => network !== 'unet'
  const linears = targets.filter(({ kind }) => kind === 'linear')
  expect(
    linears.filter(({ path: module, network }) => !isText(network) && module.includes('.attentions.')),
  ).toHaveLength(722)
  expect(linears.filter(({ path: module, network }) => isText(network) && module.includes('.layers.'))).toHaveLength(
    264,
  )
  expect(targets.filter(({ network, ldmPath }) => network === 'unet' && ldmPath === null)).toEqual([])
})
