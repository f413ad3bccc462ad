// Textual inversions (arXiv 2208.01618): vectors that stand for a word of the prompt, for each of the two text encoders.
import { toF32, isFloatDType } from '#tensor/dtype.ts'
import { openSafetensors, readRange, type SafetensorsEntry, type SafetensorsFile } from '#tensor/safetensors.ts'
import { AppError } from '../../errors.ts'
import type { Checkpoint } from './checkpoint.ts'
import { sdxlClipText, sdxlClipText2 } from './lora/sdxl-networks.ts'
import { listOf } from './match-weights.ts'
import { recognise } from './recognise.ts'

/** Channels of the token embeddings of both text encoders; a refiner has no first one. */
export type InversionWidths = {
  readonly first: number | null
  readonly second: number
  /** Whose they are, for messages. */
  readonly words: string
}

/** The vectors of a file, as many for the one encoder as for the other. */
export type TextualInversion = {
  readonly first: readonly Float32Array[]
  readonly second: readonly Float32Array[]
}

/** Vectors take the places of tokens, of which a chunk has this many; all of them stay in one. */
export const maxInversionVectors = 75

/** The names that trainers give to the two tensors: kohya and its kin, cog-sdxl. */
const knownNames: readonly (readonly [string, string])[] = [
  ['clip_l', 'clip_g'],
  ['text_encoders_0', 'text_encoders_1'],
]
/** Widths of the text encoders of other models. */
const otherWidths: Readonly<Record<number, string>> = {
  768: 'Stable Diffusion 1.x',
  1024: 'Stable Diffusion 2.x',
}

/** The widths of a model's text encoders. */
export function inversionWidthsOf({ path, textEncoder, textEncoder2 }: Checkpoint): InversionWidths {
  return {
    first: textEncoder?.config.hiddenSize ?? null,
    second: textEncoder2.config.hiddenSize,
    words: `the model ${path}`,
  }
}

/** The widths of Stable Diffusion XL's text encoders. */
export const standardInversionWidths: InversionWidths = {
  first: sdxlClipText.hiddenSize,
  second: sdxlClipText2.hiddenSize,
  words: 'Stable Diffusion XL',
}

/**
 * Read a textual inversion from a safetensors file. Throws `bad_file` for a damaged file and for vectors that are no
 * finite numbers, `wrong_architecture` when it is of another kind or its vectors do not have the given widths, with
 * which they would have to be applied in part.
 */
export async function openTextualInversion(path: string, widths: InversionWidths): Promise<TextualInversion> {
  const file = await openSafetensors(path)
  const [first, second] = findPair(file, widths)
  const [a, b] = [await vectorsOf(file, first), await vectorsOf(file, second)]
  if (a.length !== b.length)
    throw misfit(path, `it has ${a.length} vectors for the first text encoder and ${b.length} for the second`)
  if (a.length === 0 || a.length > maxInversionVectors)
    throw misfit(path, `it has ${a.length} vectors; a prompt has room for 1 to ${maxInversionVectors} in one chunk`)
  const [own, own2] = [a[0].length, b[0].length]
  if ((widths.first !== null && own !== widths.first) || own2 !== widths.second)
    throw misfit(
      path,
      `its vectors have ${own} and ${own2} channels, the text encoders of ${widths.words} ${widths.first ?? own} and ${widths.second}`,
    )
  return { first: a, second: b }
}

/** The tensors for the first and for the second text encoder. */
function findPair(file: SafetensorsFile, widths: InversionWidths): readonly [string, string] {
  const names = [...file.tensors.keys()]
  const pair = knownNames.find((known) => known.some((name) => file.tensors.has(name)))
  if (pair) {
    const absent = pair.find((name) => !file.tensors.has(name))
    if (absent !== undefined)
      throw misfit(file.path, `it has no ${absent}; Stable Diffusion XL has two text encoders, which both need vectors`)
    const others = names.filter((name) => !pair.includes(name))
    if (others.length > 0) throw misfit(file.path, `it has more than ${pair.join(' and ')}: ${listOf(others)}`)
    return pair
  }
  const wide = names.map((name) => file.tensors.get(name)!.shape.at(-1))
  if (names.length === 2 && widths.first !== widths.second) {
    // Whatever the tensors are called, each fits one of the encoders.
    const [first, second] = [wide.indexOf(widths.first ?? undefined), wide.indexOf(widths.second)]
    if (first !== -1 && second !== -1) return [names[first], names[second]]
  }
  const shapes = new Map([...file.tensors].map(([name, { shape }]) => [name, shape]))
  if (names.length <= 4 && wide.every((width) => width !== undefined && width === wide[0])) {
    const whose = otherWidths[wide[0]!]
    throw misfit(
      file.path,
      whose === undefined
        ? `it has vectors of ${wide[0]} channels alone; Stable Diffusion XL has two text encoders, which both need vectors`
        : `it is one of ${whose}, by its ${wide[0]} channels; Stable Diffusion XL's have two tensors, clip_l and clip_g`,
    )
  }
  throw misfit(file.path, `it is ${recognise(shapes).words}; expected: the tensors clip_l and clip_g`)
}

async function vectorsOf(file: SafetensorsFile, name: string): Promise<Float32Array[]> {
  const { dtype, length, offset, shape } = file.tensors.get(name)!
  const [count, width] = rowsOf(file.path, name, shape)
  if (!isFloatDType(dtype))
    throw new AppError(
      'bad_file',
      `textual inversion ${file.path}: ${name} is stored as ${dtype}, supported: F32, F16, BF16`,
    )
  const values = toF32(dtype, await readRange(file.path, offset, length))
  const odd = values.findIndex((value) => !Number.isFinite(value))
  if (odd !== -1)
    throw new AppError(
      'bad_file',
      `textual inversion ${file.path}: value ${odd} of ${name} is ${values[odd]}, which is no finite number`,
    )
  return Array.from({ length: count }, (_, row) => values.slice(row * width, (row + 1) * width))
}

/** Vectors and channels of a tensor: one vector may lie there without a dimension of its own. */
function rowsOf(path: string, name: string, shape: SafetensorsEntry['shape']): readonly [number, number] {
  const [count, width] = shape.length === 1 ? [1, shape[0]] : shape
  if (shape.length < 1 || shape.length > 2 || width === 0 || count > maxInversionVectors)
    throw misfit(
      path,
      `${name} has the shape [${shape.join(', ')}], expected up to ${maxInversionVectors} vectors of a text encoder's channels`,
    )
  return [count, width]
}

function misfit(path: string, problem: string): AppError {
  return new AppError('wrong_architecture', `textual inversion ${path}: ${problem}`)
}
