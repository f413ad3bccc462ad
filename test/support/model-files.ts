// Model files for tests: copies of the tiny models with something changed, and files of the real size without data.
import { cp, readFile, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { DType } from '#tensor/dtype.ts'
import { openSafetensors, readRange } from '#tensor/safetensors.ts'
import { layoutSafetensors, writeSafetensors } from '#tensor/safetensors-writer.ts'
import { temporaryFolder } from './temporary-folder.ts'
import { tinyModels } from './tiny-b-single-file.ts'

export type FileTensor = { readonly dtype: DType; readonly shape: readonly number[]; readonly bytes: Uint8Array }

/** Every tensor of a file with its bytes. */
export async function loadTensors(path: string): Promise<Map<string, FileTensor>> {
  const { tensors } = await openSafetensors(path)
  const loaded = new Map<string, FileTensor>()
  for (const [name, { dtype, shape, offset, length }] of tensors)
    loaded.set(name, { dtype, shape, bytes: await readRange(path, offset, length) })
  return loaded
}

/** Write tensors as a safetensors file. */
export async function saveTensors(
  path: string,
  tensors: ReadonlyMap<string, FileTensor>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const entries = [...tensors].map(([name, { dtype, shape }]) => ({ name, dtype, shape }))
  await writeSafetensors(path, entries, ({ name }) => [tensors.get(name)!.bytes], metadata)
}

/** Change the tensors of a file in place. */
export async function editTensors(path: string, edit: (tensors: Map<string, FileTensor>) => void): Promise<void> {
  const tensors = await loadTensors(path)
  edit(tensors)
  await saveTensors(path, tensors)
}

/** Change a JSON file in place. */
export async function editJson(path: string, changes: Readonly<Record<string, unknown>>): Promise<void> {
  const values = JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>
  await writeFile(path, JSON.stringify({ ...values, ...changes }))
}

/** A copy of a tiny model's folder in a folder that lives as long as the running test. */
export async function copyTinyModel(name: 'tiny-a' | 'tiny-b'): Promise<string> {
  const folder = join(await temporaryFolder(name), name)
  await cp(join(tinyModels, name), folder, { recursive: true })
  return folder
}

/** A file of any size that takes no space: a header, and nothing but a hole for the data. */
export async function saveHole(
  path: string,
  shapes: Readonly<Record<string, readonly number[]>>,
  metadata: Readonly<Record<string, string>> = {},
  dtypeOf: (name: string) => DType = () => 'F16',
): Promise<void> {
  const entries = Object.entries(shapes).map(([name, shape]) => ({ name, dtype: dtypeOf(name), shape }))
  const { header, size } = layoutSafetensors(entries, metadata)
  await writeFile(path, header)
  await truncate(path, size)
}
