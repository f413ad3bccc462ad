// The last step of opening a component: every expected tensor has exactly one place in the files, of the right shape
// and format, and nothing is left over.
import { isFloatDType } from '#tensor/dtype.ts'
import { readRange, type SafetensorsEntry } from '#tensor/safetensors.ts'
import { AppError } from '../../errors.ts'
import type { ComponentName, StoredTensor, Weights } from './checkpoint.ts'
import type { ExpectedTensors } from './expected-tensors.ts'
import type { KeyMap, KeyTarget } from './ldm-keys.ts'

/** A tensor of a file, by the name it has there. */
export type FoundTensor = SafetensorsEntry & { readonly file: string; readonly name: string }

/** Some tensors of a network are not in the files; `missing` lists all of them under diffusers' keys. */
export class MissingTensorsError extends AppError {
  readonly missing: readonly string[]

  constructor(component: string, missing: readonly string[]) {
    const count = missing.length === 1 ? '1 tensor is' : `${missing.length} tensors are`
    super('missing_tensors', `${component}: ${count} missing: ${listOf(missing)}`)
    this.missing = missing
  }
}

/**
 * The weights of a component under diffusers' keys. Throws `missing_tensors`; `wrong_architecture` for tensors that the
 * network has no place for and for wrong shapes; `bad_file` for two tensors in one place and number formats that are
 * not fp32, fp16 or bf16.
 */
export async function matchWeights(
  component: ComponentName,
  found: readonly FoundTensor[],
  map: KeyMap,
  expected: ExpectedTensors,
): Promise<Weights> {
  const places = new Map<string, { tensor: FoundTensor; target: KeyTarget }>()
  const unknown: string[] = []
  for (const tensor of found) {
    const targets = map(tensor.name)
    if (targets === null || targets.some(({ key }) => !expected.has(key))) {
      unknown.push(tensor.name)
      continue
    }
    for (const target of targets) {
      const other = places.get(target.key)
      if (other !== undefined)
        throw new AppError(
          'bad_file',
          `file ${tensor.file}: ${other.tensor.name} and ${tensor.name} are both ${component}'s ${target.key}`,
        )
      places.set(target.key, { tensor, target })
    }
  }
  const missing = [...expected.keys()].filter((key) => !places.has(key))
  if (missing.length > 0) throw new MissingTensorsError(component, missing)
  if (unknown.length > 0)
    throw new AppError(
      'wrong_architecture',
      `${component}: ${unknown.length === 1 ? '1 tensor belongs' : `${unknown.length} tensors belong`} to no part of the network: ${listOf(unknown)}`,
    )
  const weights = new Map<string, StoredTensor>()
  for (const [key, shape] of expected) {
    const { tensor, target } = places.get(key)!
    weights.set(key, await store(component, tensor, target, shape))
  }
  return weights
}

/** The first ten of `names` and the number of the others. */
export function listOf(names: readonly string[]): string {
  const rest = names.length > 10 ? `, … (${names.length - 10} more)` : ''
  return names.slice(0, 10).join(', ') + rest
}

async function store(
  component: ComponentName,
  tensor: FoundTensor,
  target: KeyTarget,
  shape: readonly number[],
): Promise<StoredTensor> {
  const { dtype, file, name } = tensor
  if (!isFloatDType(dtype))
    throw new AppError('bad_file', `file ${file}: tensor ${name} is stored as ${dtype}, supported: F32, F16, BF16`)
  const stored = shapeOf(tensor.shape, target)
  if (stored.join() !== shape.join())
    throw new AppError(
      'wrong_architecture',
      `file ${file}: ${component}'s tensor ${name} has the shape [${tensor.shape.join(', ')}], the network needs [${shape.join(', ')}]`,
    )
  const { index, of } = target.part ?? { index: 0, of: 1 }
  const length = tensor.length / of
  const offset = tensor.offset + index * length
  if (target.form === 'transposed') {
    const bytes = transposed(await readRange(file, offset, length), tensor.shape as [number, number])
    return { dtype, shape, source: { bytes } }
  }
  return { dtype, shape, source: { file, offset, length } }
}

/** The shape that a stored tensor has in its place. */
function shapeOf(shape: readonly number[], { part, form }: KeyTarget): readonly number[] {
  if (part) return [shape[0] / part.of, ...shape.slice(1)]
  if (form === 'transposed') return shape.toReversed()
  if (form === 'squeezed' && shape.length > 2 && shape.slice(2).every((size) => size === 1)) return shape.slice(0, 2)
  return shape
}

/** The bytes of a row-major matrix with rows and columns exchanged. */
function transposed(bytes: Uint8Array, [rows, columns]: readonly [number, number]): Uint8Array {
  const size = bytes.length / (rows * columns)
  const result = new Uint8Array(bytes.length)
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++)
      for (let byte = 0; byte < size; byte++)
        result[(column * rows + row) * size + byte] = bytes[(row * columns + column) * size + byte]
  return result
}
