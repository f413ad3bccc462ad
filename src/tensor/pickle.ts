// Python's pickle, protocols 2 to 5, as a language for data: an interpreter of the opcodes that build numbers, texts and
// containers. A pickle that refers to anything but tensors is refused by the name that it refers to (pickletools.py of
// CPython lists the opcodes).
import type { AppError } from '../errors.ts'
import {
  callOf,
  checkBuild,
  isObject,
  knownNames,
  quote,
  storageOf,
  type PickleDict,
  type PickleList,
  type PickleName,
  type PickleValue,
} from './pickle-value.ts'

/** A tensor takes some 45 opcodes, 6 containers and 15 memories; a file has at most 20,000 of them. */
const maxOpcodes = 1_500_000
const maxContainers = 150_000
const maxMemories = 400_000
const mark = Symbol('mark')

/**
 * The value of a pickle. `bad` makes the error out of a short description. Memory is bounded by the limits above and the
 * length of `bytes`; values may share parts, and a container may hold itself.
 */
export function readPickle(bytes: Uint8Array, bad: (problem: string) => AppError): PickleValue {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
  const stack: (PickleValue | typeof mark)[] = []
  const memo = new Map<number, PickleValue>()
  let at = 0
  let containers = 0

  const need = (length: number): number => {
    if (at + length > bytes.length) throw bad('has a pickle that is cut short')
    at += length
    return at - length
  }
  const text = (length: number): string => {
    const start = need(length)
    try {
      return decoder.decode(bytes.subarray(start, at))
    } catch (error) {
      if (!(error instanceof TypeError)) throw error
      throw bad('has a text in its pickle that is not UTF-8')
    }
  }
  const line = (): string => {
    const end = bytes.indexOf(0x0a, at)
    if (end === -1) throw bad('has a pickle that is cut short')
    const found = text(end - at)
    at++
    return found
  }
  const pop = (): PickleValue => {
    const value = stack.pop()
    if (value === undefined || value === mark) throw bad('has a pickle that takes more from its stack than lies there')
    return value
  }
  const popMark = (): PickleValue[] => {
    const start = stack.lastIndexOf(mark)
    if (start === -1) throw bad('has a pickle that misses a mark')
    const items = stack.splice(start + 1) as PickleValue[]
    stack.pop()
    return items
  }
  const top = <Kind extends 'dict' | 'list'>(kind: Kind): Extract<PickleValue, { is: Kind | string }> => {
    const value = stack.at(-1)
    if (typeof value !== 'object' || value === null || value.is !== kind)
      throw bad(`has a pickle that adds to something that is no ${kind}`)
    return value
  }
  const container = <T extends PickleList | PickleDict>(value: T): T => {
    if (++containers > maxContainers) throw bad(`has a pickle of more than ${maxContainers} containers`)
    return value
  }
  const tuple = (items: PickleValue[]): PickleList => container({ is: 'tuple', items })
  const put = (index: number): void => {
    const value = stack.at(-1)
    if (value === undefined || value === mark) throw bad('has a pickle that remembers nothing')
    memo.set(index, value)
    if (memo.size > maxMemories) throw bad(`has a pickle that remembers more than ${maxMemories} values`)
  }
  const get = (index: number): void => {
    const value = memo.get(index)
    if (value === undefined) throw bad('has a pickle that recalls what it never remembered')
    stack.push(value)
  }
  const setItems = (pairs: readonly PickleValue[]): void => {
    const { entries } = top('dict') as PickleDict
    if (pairs.length % 2 !== 0) throw bad('has a key without a value in its pickle')
    for (let index = 0; index < pairs.length; index += 2) addEntry(entries, pairs[index], pairs[index + 1], bad)
  }
  const name = (module: string, member: string): PickleName => {
    const full = `${module}.${member}`
    if (!knownNames.has(full))
      throw bad(
        `has a pickle that refers to ${quote(full)}, which is code or no tensor; only tensors in plain containers are read`,
      )
    return { is: 'name', name: full }
  }

  if (bytes[0] !== 0x80 || bytes[1] < 2 || bytes[1] > 5) throw bad('has no pickle of protocol 2 to 5')
  at = 2
  for (let count = 0; ; count++) {
    if (count > maxOpcodes) throw bad(`has a pickle of more than ${maxOpcodes} steps`)
    const opcode = String.fromCharCode(bytes[need(1)])
    switch (opcode) {
      case '.': {
        const value = pop()
        if (stack.length > 0) throw bad('has a pickle that leaves something on its stack')
        if (at !== bytes.length) throw bad('has something behind the end of its pickle')
        return value
      }
      case '\x95': // FRAME: a hint for buffering
        need(8)
        break
      case 'N':
        stack.push(null)
        break
      case '\x88':
      case '\x89':
        stack.push(opcode === '\x88')
        break
      case 'J':
        stack.push(view.getInt32(need(4), true))
        break
      case 'K':
        stack.push(bytes[need(1)])
        break
      case 'M':
        stack.push(view.getUint16(need(2), true))
        break
      case '\x8a': // LONG1: two's complement of any length
        stack.push(longOf(bytes.subarray(need(bytes[need(1)]), at), bad))
        break
      case 'G':
        stack.push(view.getFloat64(need(8), false))
        break
      case 'X':
        stack.push(text(view.getUint32(need(4), true)))
        break
      case '\x8c':
      case 'U': // of Python 2: bytes, which is UTF-8 in every file that holds names of tensors
        stack.push(text(bytes[need(1)]))
        break
      case 'T':
        stack.push(text(view.getUint32(need(4), true)))
        break
      case '}':
        stack.push(container({ is: 'dict', entries: new Map() }))
        break
      case ']':
        stack.push(container({ is: 'list', items: [] }))
        break
      case ')':
        stack.push(tuple([]))
        break
      case '(':
        stack.push(mark)
        break
      case 't':
        stack.push(tuple(popMark()))
        break
      case '\x85':
        stack.push(tuple([pop()]))
        break
      case '\x86': {
        const [second, first] = [pop(), pop()]
        stack.push(tuple([first, second]))
        break
      }
      case '\x87': {
        const [third, second, first] = [pop(), pop(), pop()]
        stack.push(tuple([first, second, third]))
        break
      }
      case 'a': {
        const item = pop()
        ;(top('list') as PickleList).items.push(item)
        break
      }
      case 'e': {
        const items = popMark()
        const list = top('list') as PickleList
        for (const item of items) list.items.push(item)
        break
      }
      case 's': {
        const [value, key] = [pop(), pop()]
        setItems([key, value])
        break
      }
      case 'u':
        setItems(popMark())
        break
      case 'q':
        put(bytes[need(1)])
        break
      case 'r':
        put(view.getUint32(need(4), true))
        break
      case '\x94':
        put(memo.size)
        break
      case 'h':
        get(bytes[need(1)])
        break
      case 'j':
        get(view.getUint32(need(4), true))
        break
      case 'c':
        stack.push(name(line(), line()))
        break
      case '\x93': {
        const [member, module] = [pop(), pop()]
        if (typeof module !== 'string' || typeof member !== 'string') throw bad('has a pickle that refers to no name')
        stack.push(name(module, member))
        break
      }
      case 'Q':
        stack.push(storageOf(pop(), bad))
        break
      case 'R': {
        const [args, callable] = [pop(), pop()]
        const made = callOf(callable, args, bad)
        stack.push(made)
        if (isObject(made) && made.is === 'dict') container(made)
        break
      }
      case 'b':
        checkBuild(pop(), top('dict') as PickleDict, bad)
        break
      default:
        throw bad(
          `has a pickle with the opcode 0x${opcode.charCodeAt(0).toString(16).padStart(2, '0')}, which no file of tensors needs`,
        )
    }
  }
}

function addEntry(
  entries: Map<string | number, PickleValue>,
  key: PickleValue,
  value: PickleValue,
  bad: (problem: string) => AppError,
): void {
  if (typeof key !== 'string' && typeof key !== 'number') throw bad('has a key in its pickle that is no text or number')
  if (entries.has(key)) throw bad(`has the key ${quote(String(key))} twice in its pickle`)
  entries.set(key, value)
}

function longOf(bytes: Uint8Array, bad: (problem: string) => AppError): number {
  if (bytes.length > 8) throw bad(`has a whole number of ${bytes.length} bytes in its pickle`)
  let value = 0n
  for (const byte of bytes.toReversed()) value = (value << 8n) | BigInt(byte)
  const number = Number(BigInt.asIntN(bytes.length * 8, value))
  if (!Number.isSafeInteger(number)) throw bad(`has the whole number ${number} in its pickle`)
  return number
}
