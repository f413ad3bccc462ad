import { readdirSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { convertTorchFile, openTorchFile } from '#tensor/torch-file.ts'
import { goldenFolder } from '../support/golden.ts'
import { loadTensors } from '../support/model-files.ts'
import { temporaryFolder } from '../support/temporary-folder.ts'

const folder = join(goldenFolder, 'torch-files')
const names = readdirSync(folder)
  .filter((name) => name.endsWith('.safetensors'))
  .map((name) => name.replace('.safetensors', ''))

test.each(names)('%s.pt holds the tensors that torch wrote', async (name) => {
  const output = join(await temporaryFolder('torch-file'), 'converted.safetensors')
  await convertTorchFile(await openTorchFile(join(folder, `${name}.pt`)), output)
  const [actual, expected] = await Promise.all([loadTensors(output), loadTensors(join(folder, `${name}.safetensors`))])
  expect([...actual.keys()].sort()).toEqual([...expected.keys()].sort())
  for (const [key, { dtype, shape, bytes }] of expected) {
    expect({ key, dtype: actual.get(key)!.dtype, shape: actual.get(key)!.shape }).toEqual({ key, dtype, shape })
    expect({ key, equal: Buffer.from(actual.get(key)!.bytes).equals(bytes) }).toEqual({ key, equal: true })
  }
})

test('what is no tensor is named, and tensors beside a state_dict are left out', async () => {
  expect((await openTorchFile(join(folder, 'training.pt'))).leftOut).toEqual(
    ['epoch', 'rate', 'optimizer', 'done'].map((name) => `"${name}"`),
  )
  expect((await openTorchFile(join(folder, 'nested.pt'))).leftOut).toEqual(['c'])
})

test('a storage with a changed bit is refused', async () => {
  const bytes = await readFile(join(folder, 'views.pt'))
  const file = await openTorchFile(join(folder, 'views.pt'))
  bytes[file.storages.get('0')!.offset + 5] ^= 1
  const damaged = join(await temporaryFolder('torch-file'), 'damaged.pt')
  await writeFile(damaged, bytes)
  await expect(convertTorchFile(await openTorchFile(damaged), `${damaged}.safetensors`)).rejects.toMatchObject({
    code: 'bad_file',
    message: expect.stringContaining('checksum of its entry "views/data/0"'),
  })
})

test('an output that is there is not written over', async () => {
  const output = join(await temporaryFolder('torch-file'), 'there')
  await writeFile(output, 'mine')
  await expect(convertTorchFile(await openTorchFile(join(folder, 'views.pt')), output)).rejects.toThrow('EEXIST')
  expect(await readFile(output, 'utf8')).toBe('mine')
})
