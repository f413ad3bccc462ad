// The weights of one network in a diffusers folder: one file, a variant of it such as `.fp16.`, or shards with an
// index.
import { readdir, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { openSafetensors } from '#tensor/safetensors.ts'
import { AppError } from '../../errors.ts'
import { readJson } from './json-file.ts'
import type { FoundTensor } from './match-weights.ts'

/** Variants in the order in which they are taken where there is no plain file. */
const variants = ['fp32', 'fp16', 'bf16'] as const

/**
 * Every tensor in the weight files of `folder` whose names start with `stem`. Throws `model_not_found` when there are
 * none, `bad_file` when an index and its shards disagree or when there are only files that are not safetensors.
 */
export async function readFolderWeights(folder: string, stem: string): Promise<readonly FoundTensor[]> {
  const names = await namesIn(folder)
  for (const variant of [null, ...variants]) {
    const infix = variant === null ? '' : `.${variant}`
    if (names.has(`${stem}${infix}.safetensors`)) return await tensorsOf(join(folder, `${stem}${infix}.safetensors`))
    const indexes = [`${stem}.safetensors.index${infix}.json`, `${stem}${infix}.safetensors.index.json`]
    const index = indexes.find((name) => names.has(name))
    if (index !== undefined) return await readShards(folder, index)
  }
  const others = [...names].filter((name) => /\.(bin|ckpt|pt|pth|msgpack|onnx|safetensors|gguf)$/.test(name))
  if (others.length > 0)
    throw new AppError(
      'bad_file',
      `folder ${folder} has no ${stem}.safetensors (or ${variants.join(', ')} variant), only ${others.slice(0, 5).join(', ')}; weights are read from safetensors`,
    )
  throw new AppError('model_not_found', `folder ${folder} has no weights: ${stem}.safetensors is missing`)
}

/** Whether a path is a folder; false when there is nothing. */
export async function isDirectory(path: string): Promise<boolean> {
  const info = await stat(path).catch((error: unknown) => {
    const code = error instanceof Error && 'code' in error ? error.code : null
    if (code === 'ENOENT' || code === 'ENOTDIR') return null
    throw new AppError('bad_file', `${path} cannot be read (${String(code)})`, { cause: error })
  })
  return info?.isDirectory() ?? false
}

/** The names in a folder; none when there is no such folder. */
export async function namesIn(folder: string): Promise<ReadonlySet<string>> {
  return (await isDirectory(folder)) ? new Set(await readdir(folder)) : new Set()
}

async function tensorsOf(file: string): Promise<FoundTensor[]> {
  const { tensors } = await openSafetensors(file)
  return [...tensors].map(([name, { dtype, shape, offset, length }]) => ({ file, name, dtype, shape, offset, length }))
}

async function readShards(folder: string, index: string): Promise<readonly FoundTensor[]> {
  const file = join(folder, index)
  const { weight_map: weightMap } = await readJson(file)
  if (typeof weightMap !== 'object' || weightMap === null)
    throw new AppError('bad_file', `file ${file} has no weight_map`)
  const entries = Object.entries(weightMap as Record<string, unknown>)
  const shards = [...new Set(entries.map(([, shard]) => shard))]
  // Shards lie beside their index; anything else could point at any file of the machine.
  const strange = shards.find(
    (name) => typeof name !== 'string' || name !== basename(name) || !name.endsWith('.safetensors'),
  )
  if (strange !== undefined || shards.length === 0)
    throw new AppError(
      'bad_file',
      `file ${file} names the shard ${JSON.stringify(strange)}, expected a .safetensors file beside it`,
    )
  const found = (await Promise.all(shards.map((shard) => tensorsOf(join(folder, String(shard)))))).flat()
  const places = new Map(found.map((tensor) => [tensor.name, tensor]))
  const lost = entries.find(([name, shard]) => places.get(name)?.file !== join(folder, String(shard)))
  if (lost) throw new AppError('bad_file', `file ${file}: tensor ${lost[0]} is not in the shard ${String(lost[1])}`)
  if (found.length !== entries.length)
    throw new AppError('bad_file', `file ${file} lists ${entries.length} tensors, its shards hold ${found.length}`)
  return found
}
