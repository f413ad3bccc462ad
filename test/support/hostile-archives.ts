// Zip archives that say one thing in one place and another in another, or hold what no model holds.
import type { Dice, Way } from './hostile-way.ts'
import { pickledTensors, torchParts, zipOf, type PickledTensor, type ZipEnd, type ZipPart } from './torch-archive.ts'

/** What the good archive holds. */
export const oneTensor: PickledTensor = { name: 'x', shape: [2, 3] }
export const oneStorage = Buffer.alloc(24, 1)

/** An archive without fault. */
export function goodTorch(): Buffer {
  return zipOf(torchParts(pickledTensors([oneTensor]), [oneStorage]))
}

/** A good archive with some parts changed. */
export function zipWith(change: (parts: ZipPart[]) => ZipPart[], end: ZipEnd = {}): Buffer {
  return zipOf(change(torchParts(pickledTensors([oneTensor]), [oneStorage])), end)
}

/** The same with one part, chosen by the dice, changed. */
function zipPart(dice: Dice, change: (part: ZipPart) => Partial<ZipPart>): Buffer {
  return zipWith((parts) => {
    const index = dice.below(parts.length)
    return parts.with(index, { ...parts[index], ...change(parts[index]) })
  })
}

export const zipWays: readonly Way[] = [
  ['a zip that is cut short', (dice) => goodTorch().subarray(0, 4 + dice.below(goodTorch().length - 4))],
  ['a zip with a comment', (dice) => zipWith((parts) => parts, { comment: Buffer.alloc(1 + dice.below(100), 65) })],
  ['a zip in a zip', () => zipWith((parts) => parts, { comment: goodTorch() })],
  ['two central directories', () => Buffer.concat([goodTorch(), goodTorch()])],
  ['bytes before the directory', (dice) => zipWith((parts) => parts, { between: Buffer.alloc(1 + dice.below(50)) })],
  [
    'bytes before everything',
    (dice) =>
      zipWith((parts) => parts, {
        front: Buffer.concat([Buffer.from('PK\u0003\u0004'), Buffer.alloc(dice.below(60))]),
      }),
  ],
  [
    'a hidden entry',
    (_, marker) =>
      zipWith((parts) => parts, {
        hidden: [{ name: 'archive/code.py', bytes: Buffer.from(`open(${JSON.stringify(marker)}, "w")`) }],
      }),
  ],
  ['a gap', (dice) => zipPart(dice, () => ({ gap: 1 + dice.below(40) }))],
  ['compressed', (dice) => zipPart(dice, () => ({ method: dice.pick([8, 9, 12, 14, 93, 99]) }))],
  ['encrypted', (dice) => zipPart(dice, () => ({ flags: dice.pick([1, 0x41, 0x2000, 0x20]) }))],
  [
    'a wrong checksum',
    (dice) =>
      zipPart(dice, ({ name }) =>
        name.endsWith('version') ? { crc: 0, bytes: Buffer.from('33') } : { crc: dice.below(2 ** 31) },
      ),
  ],
  ['a bomb by its sizes', (dice) => zipPart(dice, () => ({ unpacked: dice.pick([2 ** 31, 2 ** 32 - 2, 100_000]) }))],
  [
    'a size that is not there',
    (dice) => zipPart(dice, ({ bytes }) => ({ packed: bytes.length + 1 + dice.below(1000) })),
  ],
  ['sizes without a zip64 field', (dice) => zipPart(dice, () => ({ packed: 2 ** 32 - 1 }))],
  ['an overlap of entries', (dice) => zipPart(dice, () => ({ headerOffset: dice.below(100) }))],
  ['all entries in one place', () => zipWith((parts) => parts.map((part) => ({ ...part, headerOffset: 0 })))],
  ['an entry with two names', (dice) => zipPart(dice, ({ name }) => ({ localName: `${name.slice(0, -1)}~` }))],
  ['an entry twice', (dice) => zipWith((parts) => [...parts, parts[dice.below(parts.length)]])],
  [
    'a path as a name',
    (dice) =>
      zipPart(dice, () => ({
        name: dice.pick([
          '../../etc/passwd',
          '/etc/passwd',
          'archive/../data.pkl',
          'C:\\x',
          'archive\\data.pkl',
          'archive//data.pkl',
          'archive/./x',
          'archive/data.pkl\u0000.txt',
          '',
          'archive/',
          '\u202e',
          '~/x',
        ]),
      })),
  ],
  [
    'an entry that is none of a model',
    (dice) =>
      zipWith((parts) => [
        ...parts,
        {
          name: dice.pick([
            'archive/code/__torch__.py',
            'archive/constants.pkl',
            'archive/data/x',
            'archive/extra',
            'other/data/1',
            'data.pkl',
            'archive/data/-1',
          ]),
          bytes: Buffer.from('x'),
        },
      ]),
  ],
  ['no pickle', () => zipWith((parts) => parts.slice(1))],
  ['no storage', () => zipWith((parts) => parts.filter(({ name }) => !name.includes('/data/')))],
  ['bytes in the other order', () => zipWith((parts) => parts.with(1, { ...parts[1], bytes: Buffer.from('big') }))],
  ['a side entry of any size', () => zipWith((parts) => parts.with(1, { ...parts[1], bytes: Buffer.alloc(5000, 65) }))],
  [
    'an end that lies',
    (dice) => {
      const key = dice.pick(['count', 'size', 'offset'] as const)
      return zipWith((parts) => parts, { [key]: dice.pick([0, 1, 3, 5, 46, 0xffff, 1000]) })
    },
  ],
  ['an end alone', (dice) => Buffer.concat([Buffer.from('PK\u0003\u0004'), Buffer.alloc(dice.below(40)), zipOf([])])],
]
