import { readdirSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { convertTorchFile, openTorchFile } from '#tensor/torch-file.ts'
import { goldenFolder } from '../support/golden.ts'
import { loadTensors } from '../support/model-files.ts'
import { temporaryFolder } from '../support/temporary-folder.ts'
import { pickledTensors, torchParts, zipOf } from '../support/torch-archive.ts'

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
  expect((await openTorchFile(join(folder, 'nested.pt'))).leftOut).toEqual(['"c"'])
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

test('a changed byte ends in the same tensors or in bad_file, nothing else', async () => {
  const whole = await readFile(join(folder, 'protocol-2.pt'))
  const file = join(await temporaryFolder('torch-file'), 'flipped.pt')
  const original = await loadTensors(join(folder, 'protocol-2.safetensors'))
  const refusal = expect.objectContaining({ name: 'AppError', code: 'bad_file' }) as unknown
  for (let at = 0; at < whole.length; at += 23) {
    const bytes = Buffer.from(whole)
    bytes[at] ^= 1 << (at % 8)
    await writeFile(file, bytes)
    const output = `${file}-${at}.safetensors`
    const outcome = await openTorchFile(file)
      .then((opened) => convertTorchFile(opened, output))
      .then(() => loadTensors(output))
      .catch((error: unknown) => error)
    // Maps are equal whatever the order of their entries.
    expect([original, refusal]).toContainEqual(outcome)
  }
})

test('a changed pickle with a right checksum ends in tensors or in bad_file, nothing else', async () => {
  const tensors = ['a', 'b'].map((name) => ({ name, shape: [2, 3], strides: [3, 1] }))
  const pickle = pickledTensors(tensors)
  const storages = [Buffer.alloc(24), Buffer.alloc(24)]
  const file = join(await temporaryFolder('torch-file'), 'changed.pt')
  let refused = 0
  for (let turn = 0; turn < 400; turn++) {
    const bytes = Buffer.from(pickle)
    for (let change = 0; change <= turn % 3; change++)
      bytes[(turn * 7919 + change * 104_729) % bytes.length] = (turn * 31 + change * 17) % 256
    await writeFile(file, zipOf(torchParts(bytes, storages)))
    const outcome = await openTorchFile(file).catch((error: unknown) => error)
    const isRefused = outcome instanceof Error
    if (isRefused) refused++
    expect(outcome).toMatchObject(isRefused ? { name: 'AppError', code: 'bad_file' } : { path: file })
  }
  expect(refused).toBeGreaterThan(250)
})
