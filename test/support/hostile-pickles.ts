// Pickles that run code, or would be read without end, or describe tensors that are not there.
import { oneStorage, oneTensor } from './hostile-archives.ts'
import { someNames } from './hostile-headers.ts'
import type { Dice, Way } from './hostile-way.ts'
import { op, pickledTensor, pickledTensors, torchParts, zipOf, type PickledTensor } from './torch-archive.ts'

/** An archive of any pickle. */
export const torchOf = (pickle: Buffer, storages: readonly Buffer[] = [oneStorage]): Buffer =>
  zipOf(torchParts(pickle, storages))
/** An archive of these opcodes. */
export const program = (...parts: readonly Buffer[]): Buffer => torchOf(Buffer.concat([op.proto(), ...parts, op.stop]))
const opcode = (text: string): Buffer => Buffer.from(text, 'latin1')
/** A tensor beside which something else happens, so that the file is of use. */
const besides = (...parts: readonly Buffer[]): Buffer =>
  program(op.emptyDict, op.mark, op.text('x'), pickledTensor(oneTensor, 0), op.text('y'), ...parts, op.setItems)

const calls: readonly (readonly [string, string])[] = [
  ['os', 'system'],
  ['posix', 'system'],
  ['nt', 'system'],
  ['subprocess', 'Popen'],
  ['builtins', 'eval'],
  ['builtins', 'exec'],
  ['__builtin__', 'eval'],
  ['builtins', 'getattr'],
  ['builtins', '__import__'],
  ['builtins', 'open'],
  ['runpy', 'run_path'],
  ['functools', 'partial'],
  ['operator', 'attrgetter'],
  ['torch.hub', 'load'],
  ['torch', 'load'],
  ['torch.storage', '_load_from_bytes'],
  ['torch._utils', '_rebuild_tensor_v2.__globals__'],
  ['torch._utils', '_rebuild_sparse_tensor'],
  ['torch.serialization', 'load'],
  ['numpy.core.multiarray', '_reconstruct'],
  ['_codecs', 'encode'],
  ['pickle', 'loads'],
  ['collections', 'OrderedDict.__class__'],
  ['torch.jit', 'load'],
  ['webbrowser', 'open'],
  ['pip', 'main'],
  ['timeit', 'timeit'],
  ['asyncio.unix_events', '_UnixSubprocessTransport._start'],
  ['torch', 'FloatStorage.from_file'],
  ['torch.nn.modules.container', 'ParameterDict'],
  ['pytorch_lightning.callbacks.model_checkpoint', 'ModelCheckpoint'],
]

const stackGlobal = (module: string, name: string): Buffer =>
  Buffer.concat([op.text(module), op.text(name), opcode('\x93')])

export const tensorWays: readonly Way[] = (
  [
    ['a view beyond its storage', (d) => ({ offset: 1 + d.below(1000) })],
    ['a view of more than there is', (d) => ({ shape: [3 + d.below(1000), 3], length: 6 })],
    ['a view that repeats', (d) => ({ shape: [2 ** d.below(31), 1000], strides: [0, 0], length: 6 })],
    ['a view with steps backwards', () => ({ strides: [-3, 1] })],
    ['a view with fewer steps than sizes', () => ({ strides: [1] })],
    ['a size below zero', (d) => ({ shape: [-1 - d.below(9), 3] })],
    [
      'sizes beyond counting',
      () => ({
        shape: Array.from({ length: 8 }, () => 2 ** 31 - 1),
        strides: Array.from({ length: 8 }, () => 1),
        length: 6,
      }),
    ],
    ['more dimensions than allowed', (d) => ({ shape: [6, ...Array.from({ length: 8 + d.below(200) }, () => 1)] })],
    ['a storage that is said to be longer', (d) => ({ length: 7 + d.below(10_000) })],
    ['a storage that is said to be shorter', (d) => ({ length: d.below(6) })],
    [
      'a storage of another kind',
      (d) => ({
        type: d.pick([
          'ComplexFloatStorage',
          'QInt8Storage',
          'UntypedStorage',
          'Storage',
          'cuda.FloatStorage',
          'DoubleStorage',
          'HalfStorage',
        ]),
      }),
    ],
    ['a storage that is a path', (d) => ({ key: d.pick(['../0', '/etc/passwd', '1', '', '00', '0\u0000', 'data/0']) })],
  ] as readonly (readonly [string, (dice: Dice) => Partial<PickledTensor>])[]
).map(([name, change]) => [name, (dice) => torchOf(pickledTensors([{ ...oneTensor, ...change(dice) }]))])

export const pickleWays: readonly Way[] = [
  [
    'a call of code',
    (dice, marker) => besides(op.global(...dice.pick(calls)), op.mark, op.text(`touch ${marker}`), op.tuple, op.reduce),
  ],
  [
    'a call of code by the stack',
    (dice, marker) =>
      besides(stackGlobal(...dice.pick(calls)), op.mark, op.text(`touch ${marker}`), op.tuple, op.reduce),
  ],
  ['code as a value', (dice) => besides(op.global(...dice.pick(calls)))],
  [
    'an opcode that makes objects',
    (dice, marker) =>
      besides(
        op.mark,
        op.text(`touch ${marker}`),
        op.tuple,
        opcode(
          dice.pick([
            'ios\nsystem\n',
            'o',
            '\x81',
            '\x92',
            '\x82\x01',
            '\x83\x01\x01',
            '\x84\x01\x00\x00\x00',
            'P0\n',
            'Vx\n',
            'I1\n',
            'F1\n',
            "S'x'\n",
            'p0\n',
            'g0\n',
            'd',
            'l',
            '0',
            '1',
            '2',
            '\x8b\x01\x00\x00\x00\x01',
            '\x8d',
            '\x8e',
            '\x8f',
            '\x90',
            '\x91',
            '\x96',
            '\x97',
            '\x98',
            'B',
            'C\x01x',
            '\x00',
            '\xff',
            'Z',
          ]),
        ),
      ),
  ],
  [
    'a state that is built',
    (dice, marker) =>
      besides(
        op.global('collections', 'OrderedDict'),
        op.emptyTuple,
        op.reduce,
        op.emptyDict,
        op.mark,
        op.text(dice.pick(['__reduce__', '__class__', 'x', '__setstate__'])),
        op.text(marker),
        op.setItems,
        op.build,
      ),
  ],
  ['a state of a tensor', () => program(pickledTensor(oneTensor, 0), op.emptyDict, op.build)],
  [
    'a persistent id that is none',
    (dice) =>
      besides(
        dice.pick([
          op.text('x'),
          op.none,
          op.emptyTuple,
          op.emptyDict,
          Buffer.concat([op.mark, op.text('module'), op.text('a'), op.text('b'), op.text('c'), op.int(1), op.tuple]),
        ]),
        op.persistentId,
      ),
  ],
  [
    'a storage as a tensor',
    () =>
      program(
        op.mark,
        op.text('storage'),
        op.global('torch', 'FloatStorage'),
        op.text('0'),
        op.text('cpu'),
        op.int(6),
        op.tuple,
        op.persistentId,
      ),
  ],
  [
    'a call of a storage',
    () => besides(op.global('torch', 'FloatStorage'), op.mark, op.int(1_000_000_000), op.tuple, op.reduce),
  ],
  [
    'a dictionary of a list',
    () => besides(op.global('collections', 'OrderedDict'), op.mark, op.emptyList, op.tuple, op.reduce),
  ],
  ['a call of no name', () => besides(op.text('os.system'), op.emptyTuple, op.reduce)],
  ['a call with no tuple', () => besides(op.global('torch', 'Size'), op.none, op.reduce)],
  [
    'a pickle that is cut short',
    (dice) => {
      const whole = pickledTensors([oneTensor])
      return torchOf(whole.subarray(0, 2 + dice.below(whole.length - 3)))
    },
  ],
  [
    'something behind the end',
    (dice) => torchOf(Buffer.concat([pickledTensors([oneTensor]), Buffer.alloc(1 + dice.below(50), 0x2e)])),
  ],
  [
    'another protocol',
    (dice) =>
      torchOf(Buffer.concat([Buffer.from([0x80, dice.pick([0, 1, 6, 255])]), pickledTensors([oneTensor]).subarray(2)])),
  ],
  [
    'an empty stack',
    (dice) =>
      program(
        opcode(
          dice.pick([
            '',
            '\x85',
            '\x86',
            '\x87',
            't',
            'u',
            's',
            'a',
            'e',
            'R',
            'b',
            'Q',
            'q\x00',
            '\x94',
            '\x93',
            '(',
            '(.',
          ]),
        ),
      ),
  ],
  ['a memo that is empty', (dice) => program(opcode(dice.pick(['h\x07', 'j\xff\xff\xff\xff'])))],
  [
    'a text that is not there',
    (dice) =>
      program(
        opcode(dice.pick(['X\xff\xff\xff\xff', 'X\x10\x00\x00\x00ab', '\x8c\xffab', 'U\xffab', 'T\xff\xff\xff\x7f'])),
      ),
  ],
  ['a text that is no UTF-8', () => program(opcode('X\x02\x00\x00\x00\xff\xfe'))],
  [
    'a number beyond counting',
    (dice) => besides(opcode(dice.pick([`\x8a\xff${'\x7f'.repeat(255)}`, `\x8a\x08${'\xff'.repeat(7)}\x7f`]))),
  ],
  [
    'a key twice in a pickle',
    () =>
      program(
        op.emptyDict,
        op.mark,
        op.text('x'),
        pickledTensor(oneTensor, 0),
        op.text('x'),
        pickledTensor(oneTensor, 0),
        op.setItems,
      ),
  ],
  [
    'a key that is no text',
    (dice) =>
      program(
        op.emptyDict,
        op.mark,
        dice.pick([op.none, op.emptyTuple, op.emptyDict, op.no]),
        pickledTensor(oneTensor, 0),
        op.setItems,
      ),
  ],
  ['a key without a value', () => program(op.emptyDict, op.mark, op.text('x'), op.setItems)],
  ['no tensor at all', (dice) => program(dice.pick([op.none, op.text('x'), op.emptyDict, op.emptyList, op.int(5)]))],
  ['a container in itself', () => program(op.emptyList, op.put(0), op.get(0), op.append)],
  [
    'containers in each other',
    (dice) => {
      const depth = 9 + dice.below(3000)
      return program(
        ...Array.from({ length: depth }, () => op.emptyList),
        ...Array.from({ length: depth - 1 }, () => op.append),
      )
    },
  ],
  [
    'containers that double',
    () => {
      const doubled = Array.from({ length: 7 }, (_, level) =>
        Buffer.concat([op.mark, ...Array.from({ length: 8 }, () => op.get(level)), op.tuple, op.put(level + 1)]),
      )
      return program(op.mark, pickledTensor(oneTensor, 0), op.tuple, op.put(0), ...doubled)
    },
  ],
  [
    'a name without end',
    (dice) => torchOf(pickledTensors([{ ...oneTensor, name: 'x'.repeat(513 + dice.below(9000)) }])),
  ],
  [
    'names that become one',
    () =>
      program(
        op.emptyDict,
        op.mark,
        op.text('a.b'),
        pickledTensor(oneTensor, 0),
        op.text('a'),
        op.emptyDict,
        op.mark,
        op.text('b'),
        pickledTensor(oneTensor, 0),
        op.setItems,
        op.setItems,
      ),
  ],
  ['tensors that fit nothing', (dice) => torchOf(pickledTensors([{ ...oneTensor, name: dice.pick(someNames) }]))],
]
