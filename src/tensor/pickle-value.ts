// What a pickle of data holds, and the few names and calls by which torch.save describes a tensor. Nothing is looked up
// or run: a call is carried out as a description of what it would make.
import type { AppError } from '../errors.ts'
import type { DType } from './dtype.ts'

/** What a storage's bytes are; `key` names its entry in the archive. */
export type TorchStorage = {
  readonly is: 'storage'
  readonly key: string
  readonly dtype: DType
  /** In elements. */
  readonly length: number
}

/** A view of a storage; sizes, strides and offset are in elements. */
export type TorchTensor = {
  readonly is: 'tensor'
  readonly storage: TorchStorage
  readonly offset: number
  readonly shape: readonly number[]
  readonly strides: readonly number[]
}

export type PickleList = { readonly is: 'list' | 'tuple'; readonly items: PickleValue[] }
export type PickleDict = { readonly is: 'dict'; readonly entries: Map<string | number, PickleValue> }
/** One of the names in `callables` and `storageTypes`. */
export type PickleName = { readonly is: 'name'; readonly name: string }

/** Whatever a pickle of data can hold. */
export type PickleValue =
  | null
  | boolean
  | number
  | string
  | PickleList
  | PickleDict
  | PickleName
  | TorchStorage
  | TorchTensor

const storageTypes: ReadonlyMap<string, DType> = new Map([
  ['torch.FloatStorage', 'F32'],
  ['torch.HalfStorage', 'F16'],
  ['torch.BFloat16Storage', 'BF16'],
  ['torch.DoubleStorage', 'F64'],
  ['torch.LongStorage', 'I64'],
  ['torch.IntStorage', 'I32'],
  ['torch.ShortStorage', 'I16'],
  ['torch.CharStorage', 'I8'],
  ['torch.ByteStorage', 'U8'],
  ['torch.BoolStorage', 'BOOL'],
])
const callables = {
  dict: 'collections.OrderedDict',
  tensor: 'torch._utils._rebuild_tensor_v2',
  parameter: 'torch._utils._rebuild_parameter',
  size: 'torch.Size',
} as const
/** Every name that a pickle may refer to. */
export const knownNames: ReadonlySet<string> = new Set([...Object.values(callables), ...storageTypes.keys()])

const maxRank = 8

/** What torch.save calls to make something again, carried out as a description. Throws `bad` for all else. */
export function callOf(callable: PickleValue, args: PickleValue, bad: (problem: string) => AppError): PickleValue {
  if (!isObject(callable) || callable.is !== 'name') throw bad('has a pickle that calls something without a name')
  const wrong = (): AppError => bad(`has a pickle that calls ${callable.name} in a way torch.save does not`)
  if (!isObject(args) || args.is !== 'tuple') throw wrong()
  const { items } = args
  switch (callable.name) {
    case callables.dict:
      // Entries follow one by one; Python 2 gave them here, as a list.
      if (items.length > 0) throw wrong()
      return { is: 'dict', entries: new Map() }
    case callables.size: {
      const [sizes] = items
      if (items.length !== 1 || !isCounts(sizes)) throw wrong()
      return sizes
    }
    case callables.parameter: {
      const [data] = items
      if (items.length !== 3 || !isObject(data) || data.is !== 'tensor') throw wrong()
      return data
    }
    case callables.tensor: {
      const [storage, offset, sizes, strides] = items
      if (items.length < 6 || items.length > 7 || !isObject(storage) || storage.is !== 'storage') throw wrong()
      if (!isCount(offset) || !isCounts(sizes) || !isCounts(strides)) throw wrong()
      const shape = sizes.items as number[]
      if (shape.length !== strides.items.length) throw wrong()
      return { is: 'tensor', storage, offset, shape, strides: strides.items as number[] }
    }
    default:
      throw wrong()
  }
}

/** ('storage', type, key, place, elements): what torch.save gives as a persistent id. */
export function storageOf(id: PickleValue, bad: (problem: string) => AppError): TorchStorage {
  const [tag, type, key, place, length] = isObject(id) && id.is === 'tuple' && id.items.length === 5 ? id.items : []
  const dtype = isObject(type) && type.is === 'name' ? storageTypes.get(type.name) : undefined
  if (tag !== 'storage' || !dtype || typeof key !== 'string' || typeof place !== 'string' || !isCount(length))
    throw bad('has a persistent id in its pickle that is no storage of a tensor')
  return { is: 'storage', key, dtype, length }
}

/**
 * Throws `bad` for a state that is more than the versions of a module's layers, which its state_dict carries as an
 * attribute and which mean nothing without the module.
 */
export function checkBuild(state: PickleValue, target: PickleDict, bad: (problem: string) => AppError): void {
  const isMetadata =
    isObject(state) && state.is === 'dict' && state.entries.size === 1 && state.entries.has('_metadata')
  if (!isMetadata || target.is !== 'dict') throw bad('has a pickle that builds an object out of a state')
}

/** Whether a value is neither nothing nor a plain number or text. */
export function isObject(
  value: PickleValue | undefined,
): value is Exclude<PickleValue, null | boolean | number | string> {
  return typeof value === 'object' && value !== null
}

function isCount(value: PickleValue | undefined): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
}

function isCounts(value: PickleValue | undefined): value is PickleList {
  return isObject(value) && value.is === 'tuple' && value.items.length <= maxRank && value.items.every(isCount)
}

/** `text` as JSON, short enough for a message. */
export function quote(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text)
}
