// Files that somebody could upload to do harm, or by accident: each must be refused. Made from a seed, so that a case can
// be made again by its number.
import { goodTorch, zipWays, zipWith } from './hostile-archives.ts'
import { contentWays, filled, headerWays, safetensors, tensorText } from './hostile-headers.ts'
import { pickleWays, program, tensorWays, torchOf } from './hostile-pickles.ts'
import { diceOf, type Way } from './hostile-way.ts'
import { op, pickledTensors } from './torch-archive.ts'

/** One upload that must be refused. */
export type HostileFile = { readonly name: string; readonly bytes: Buffer; readonly kind: HostileKind }
type HostileKind = 'checkpoint' | 'controlnet' | 'lora' | 'textual_inversion' | 'vae'

const kinds: readonly HostileKind[] = ['checkpoint', 'controlnet', 'lora', 'textual_inversion', 'vae']

/** `count` files; the shell commands and Python calls in them would write to `marker`. */
export function* hostileFiles(seed: number, count: number, marker: string): Generator<HostileFile> {
  for (let index = 0; index < count; index++) {
    const dice = diceOf(seed * 1_000_003 + index)
    // In turn, so that every way is tried as often; the large ones now and then.
    const ways = index % 199 === 0 ? largeWays : smallWays
    const [name, make] = ways[Math.floor(index % 199 === 0 ? index / 199 : index) % ways.length]
    yield { name: `${index} ${name}`, bytes: make(dice, marker), kind: dice.pick(kinds) }
  }
}

const startsOf = [
  'PK\u0003\u0004',
  '\u0080\u0002}q\u0000.',
  '\u007fELF\u0002\u0001\u0001',
  'MZ\u0090',
  '\u0089PNG\r\n\u001a\n',
  'GIF89a',
  '%PDF-1.7',
  '#!/bin/sh\ntouch ',
  '<?php system("id")',
  '<!doctype html><script>',
  '\u001f\u008b\u0008',
  'GGUF\u0003',
  'version https://git-lfs.github.com/spec/v1\noid',
  '{"a": 1}',
  '\u0093NUMPY\u0001',
  '\u0089HDF\r\n',
  'BZh9',
  '\u00fd7zXZ',
  'Rar!\u001a\u0007',
  '',
  '\n',
  '\u0000'.repeat(64),
]

const formatWays: readonly Way[] = [
  [
    'another format',
    (dice, marker) =>
      Buffer.concat([
        Buffer.from(dice.pick(startsOf), 'latin1'),
        Buffer.from(marker),
        Buffer.alloc(dice.below(600), dice.below(256)),
      ]),
  ],
  ['noise', (dice) => Buffer.from(Array.from({ length: dice.below(2000) }, () => dice.below(256)))],
  [
    'the old format of torch.save',
    (dice) => Buffer.concat([Buffer.from('80028a0a6cfc9c46f9206aa850192e', 'hex'), Buffer.alloc(dice.below(200))]),
  ],
  [
    'a pickle alone',
    (dice, marker) =>
      Buffer.concat([
        Buffer.from([0x80, 2 + dice.below(4)]),
        op.global('os', 'system'),
        op.text(`touch ${marker}`),
        Buffer.from('\x85R.', 'latin1'),
      ]),
  ],
  [
    'a zip behind a picture',
    (dice) => Buffer.concat([Buffer.from(dice.pick(startsOf.slice(2, 9)), 'latin1'), Buffer.alloc(16), goodTorch()]),
  ],
  ['a zip behind safetensors', () => Buffer.concat([filled({ clip_l: [1, 4], clip_g: [1, 4] }), goodTorch()])],
  ['safetensors behind a zip', () => Buffer.concat([goodTorch(), filled({ clip_l: [1, 4], clip_g: [1, 4] })])],
]

/** Now and then: they take a second each. */
const largeWays: readonly Way[] = [
  [
    'a hundred thousand tensors',
    () => {
      const names = Array.from({ length: 100_000 }, (_, index) => tensorText(`t${index}`, index))
      return safetensors(`{${names.join()}}`, Buffer.alloc(100_000))
    },
  ],
  ['a header of 16 MiB of names', () => safetensors(`{"${'x'.repeat(16_000_000)}":1}`)],
  ['a header of deep objects', () => safetensors(`${'{"a":'.repeat(1_000_000)}1${'}'.repeat(1_000_000)}`)],
  ['a pickle of steps without end', () => program(Buffer.alloc(10_000_000, 'N'))],
  ['a pickle of containers without end', () => program(Buffer.alloc(4_000_000, '}'))],
  ['a pickle of marks', () => program(Buffer.alloc(1_400_000, '('))],
  ['a pickle of memories', () => program(op.none, Buffer.alloc(1_400_000, '\x94', 'latin1'))],
  ['a pickle of 17 MiB', () => program(Buffer.alloc(17 << 20, 'N'))],
  [
    'entries without end',
    () =>
      zipWith((parts) => [
        ...parts,
        ...Array.from({ length: 21_000 }, (_, index) => ({
          name: `archive/data/${index + 1}`,
          bytes: Buffer.alloc(0),
        })),
      ]),
  ],
  [
    'a storage many times over',
    () => {
      const storage = Buffer.alloc(4 << 20)
      const tensors = Array.from({ length: 200 }, (_, index) => ({ name: `t${index}`, shape: [1024, 1024], key: '0' }))
      return torchOf(pickledTensors(tensors), [storage])
    },
  ],
]

const smallWays: readonly Way[] = [
  ...headerWays,
  ...contentWays,
  ...formatWays,
  ...zipWays,
  ...tensorWays,
  ...pickleWays,
]
