// Opening a LoRA: every tensor of the file is looked up, has a place and fits, or the file is refused with the list of
// those that do not. Nothing is applied in part.
import { open, type FileHandle } from 'node:fs/promises'
import { isFloatDType, type DType } from '#tensor/dtype.ts'
import { openSafetensors, type SafetensorsEntry, type SafetensorsFile } from '#tensor/safetensors.ts'
import { AppError } from '../../../errors.ts'
import { recogniseLora, unsupportedParts } from './foreign-lora.ts'
import type { Lora, LoraModule, LoraReport, LoraTensor } from './lora.ts'
import { describeMetadata, peftScales } from './lora-metadata.ts'
import { loraNames } from './lora-names.ts'
import type { LoraNetworks, LoraTarget } from './lora-networks.ts'
import { splitName, type LoraRole, type SplitName } from './lora-suffixes.ts'
import { LoraMisfit, readModule } from './read-module.ts'

/** What diffusers calls the networks in its metadata. */
const components = { unet: 'unet', textEncoder: 'text_encoder', textEncoder2: 'text_encoder_2' } as const

type Found = {
  readonly target: LoraTarget
  /** Of a part that tells the file's style of names, where there is one. */
  split: SplitName
  readonly tensors: Map<LoraRole, LoraTensor>
  readonly numbers: Map<'alpha' | 'onInput', number>
}

/**
 * The LoRA file at `path`, held against the modules of a model. Its header and its alphas are read. Throws
 * `model_not_found`, `bad_file` for a damaged file, and `wrong_architecture` when any of its tensors has no place in
 * the networks, does not fit or is missing, with the list.
 */
export async function openLora(path: string, networks: LoraNetworks): Promise<Lora> {
  const file = await openSafetensors(path)
  if (file.tensors.size === 0) throw new AppError('bad_file', `lora ${path}: there are no tensors in it`)
  await using handle = await open(path)
  const misfits: LoraMisfit[] = []
  const guarded = <T>(work: () => T): T | null => {
    try {
      return work()
    } catch (error) {
      if (!(error instanceof LoraMisfit)) throw error
      misfits.push(error)
      return null
    }
  }

  // 1. names → modules and parts
  const found = new Map<LoraTarget, Found>()
  for (const [name, entry] of file.tensors) {
    const place = guarded(() => placeOf(name, networks))
    if (place === null) continue
    const { target, split } = place
    const module = found.get(target) ?? { target, split, tensors: new Map(), numbers: new Map() }
    found.set(target, module)
    if (split.role === 'down' || split.role === 'up') module.split = split
    const stored = guarded(() => loraTensor(path, name, entry, split.role, module.tensors))
    if (stored === null) continue
    module.tensors.set(split.role, stored)
    if (split.role === 'alpha' || split.role === 'onInput') {
      const value = await readNumber(handle, entry)
      if (value === null)
        misfits.push(new LoraMisfit(name, `is no single number (${entry.dtype} [${entry.shape.join(', ')}])`))
      else module.numbers.set(split.role, value)
    }
  }

  // 2. parts → changes; those of a module whose names are in doubt would only be told a second time
  const scales = peftScales(path, file.metadata)
  const doubtful = new Set(misfits.map(({ tensor }) => tensor))
  const modules: LoraModule[] = []
  let used = 0
  for (const module of found.values()) {
    if ([...module.tensors.values()].some(({ name }) => doubtful.has(name))) continue
    const read = guarded(() => moduleOf(module, scales))
    if (read === null) continue
    modules.push(read)
    used += module.tensors.size
  }
  if (misfits.length > 0) throw refusal(file, networks, misfits, used)
  return {
    path,
    modules,
    report: { ...reportOf(modules), ...describeMetadata(file.metadata), ...countsOf(file, used) },
  }
}

function placeOf(name: string, networks: LoraNetworks): { target: LoraTarget; split: SplitName } {
  const names = loraNames(networks)
  for (const split of splitName(name)) {
    const target = (split.processor ? names.processors : names.modules).get(split.module)
    if (target) return { target, split }
  }
  throw new LoraMisfit(name, 'names no module')
}

function loraTensor(
  path: string,
  name: string,
  { dtype, shape, offset, length }: SafetensorsEntry,
  role: LoraRole,
  before: ReadonlyMap<LoraRole, LoraTensor>,
): LoraTensor {
  const other = before.get(role)
  if (other) throw new LoraMisfit(name, `is the same part of the same module as ${other.name}`)
  const source = { file: path, offset, length }
  // Numbers are read here and now, in whatever format they have.
  if (role === 'alpha' || role === 'onInput') return { name, dtype: 'F32', shape, source }
  if (!isFloatDType(dtype)) throw new LoraMisfit(name, `is stored as ${dtype}, supported: F32, F16, BF16`)
  return { name, dtype, shape, source }
}

function moduleOf(
  { target, split, tensors, numbers }: Found,
  scales: (component: string, module: string, rank: number) => number,
): LoraModule {
  const onInput = numbers.get('onInput')
  return readModule({
    target,
    tensors,
    alpha: numbers.get('alpha') ?? null,
    onInput: onInput === undefined ? null : onInput !== 0,
    scaleOf: (rank) => scales(components[target.network], target.path, rank),
    nameOf: split.nameOf,
  })
}

const numberReaders: Readonly<Partial<Record<DType, (view: DataView) => number>>> = {
  F64: (view) => view.getFloat64(0, true),
  F32: (view) => view.getFloat32(0, true),
  F16: (view) => view.getFloat16(0, true),
  BF16: (view) => {
    const wide = new DataView(new ArrayBuffer(4))
    wide.setUint16(0, view.getUint16(0, true))
    return wide.getFloat32(0)
  },
  I64: (view) => Number(view.getBigInt64(0, true)),
  I32: (view) => view.getInt32(0, true),
  U8: (view) => view.getUint8(0),
  BOOL: (view) => view.getUint8(0),
}

/** A tensor of one element as a number; null for any other. */
async function readNumber(handle: FileHandle, entry: SafetensorsEntry): Promise<number | null> {
  const reader = numberReaders[entry.dtype]
  if (reader === undefined || entry.shape.some((size) => size !== 1)) return null
  const bytes = new Uint8Array(entry.length)
  const { bytesRead } = await handle.read(bytes, 0, entry.length, entry.offset)
  return bytesRead === entry.length ? reader(new DataView(bytes.buffer)) : null
}

function refusal(
  file: SafetensorsFile,
  { words }: LoraNetworks,
  misfits: readonly LoraMisfit[],
  used: number,
): AppError {
  const unknown = misfits.map(({ tensor }) => tensor).filter((name) => file.tensors.has(name))
  const parts = unsupportedParts(unknown)
  const shapes = new Map([...file.tensors].map(([name, { shape }]) => [name, shape]))
  const kind = parts === null ? recogniseLora(shapes) : null
  const trainedOn = describeMetadata(file.metadata).baseModel
  const is = [
    ...(parts === null ? [] : [parts]),
    ...(kind === null ? [] : [`it looks like ${kind}`]),
    ...(trainedOn === null ? [] : [`its metadata name the base model ${JSON.stringify(trainedOn)}`]),
  ]
  const first = misfits.slice(0, 10).map(({ message }) => message)
  const rest = misfits.length > first.length ? `; … (${misfits.length - first.length} more)` : ''
  return new AppError(
    'wrong_architecture',
    `lora ${file.path} does not fit ${words}: ${used} of ${file.tensors.size} tensors fit${is.map((each) => `; ${each}`).join('')}; first misfits: ${first.join('; ')}${rest}`,
  )
}

function countsOf(file: SafetensorsFile, used: number): Pick<LoraReport, 'tensorsUsed' | 'tensorsPresent'> {
  return { tensorsUsed: used, tensorsPresent: file.tensors.size }
}

function reportOf(modules: readonly LoraModule[]): Pick<LoraReport, 'families' | 'doraModules' | 'rank' | 'modules'> {
  const families: Record<string, number> = {}
  const counts = { unet: 0, textEncoder: 0, textEncoder2: 0 }
  const ranks: number[] = []
  for (const { change, target } of modules) {
    const family = change?.family ?? 'bias'
    families[family] = (families[family] ?? 0) + 1
    counts[target.network]++
    if (change && 'rank' in change && change.rank !== null) ranks.push(change.rank)
  }
  return {
    families,
    doraModules: modules.filter(({ dora }) => dora !== null).length,
    rank: ranks.length === 0 ? null : { min: Math.min(...ranks), max: Math.max(...ranks) },
    modules: counts,
  }
}
