// Safetensors that lie in their headers, and such as are good files of nothing that is wanted.
import type { Way } from './hostile-way.ts'

type Entry = { dtype: unknown; shape: unknown; data_offsets: unknown }

/** A file with any header text; `length` in place of its own. */
export function safetensors(header: string | Buffer, data = Buffer.alloc(0), length?: bigint): Buffer {
  const json = Buffer.from(header)
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(length ?? BigInt(json.length))
  return Buffer.concat([prefix, json, data])
}

/** A good file of an inversion, with one thing changed. */
function changed(edit: (entries: Record<string, Entry>) => void, dataBytes = 32): Buffer {
  const entries: Record<string, Entry> = {
    clip_l: { dtype: 'F32', shape: [1, 4], data_offsets: [0, 16] },
    clip_g: { dtype: 'F32', shape: [1, 4], data_offsets: [16, 32] },
  }
  edit(entries)
  return safetensors(JSON.stringify(entries), Buffer.alloc(dataBytes))
}

/** A tensor of one byte, as a header describes it. */
export const tensorText = (name: string, at: number): string =>
  `"${name}":{"dtype":"U8","shape":[1],"data_offsets":[${at},${at + 1}]}`

export const headerWays: readonly Way[] = [
  [
    'a header of impossible length',
    (dice) =>
      safetensors(
        '{}',
        Buffer.alloc(dice.below(64)),
        dice.pick([0n, 1n, 2n ** 24n + 1n, 2n ** 32n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]),
      ),
  ],
  ['a header longer than the file', (dice) => safetensors('{}', Buffer.alloc(8), BigInt(11 + dice.below(10_000)))],
  [
    'a file that is cut short',
    (dice) => {
      const whole = changed(() => {})
      return whole.subarray(0, dice.below(whole.length))
    },
  ],
  ['bytes behind the last tensor', (dice) => changed(() => {}, 33 + dice.below(1000))],
  ['a hole', (dice) => changed((e) => (e['clip_g'].data_offsets = [17 + dice.below(9), 33 + dice.below(9)]), 64)],
  [
    'an overlap',
    (dice) => {
      const start = dice.below(16)
      return changed((e) => (e['clip_g'].data_offsets = [start, start + 16]), start + 16)
    },
  ],
  ['offsets in the wrong order', (dice) => changed((e) => (e['clip_l'].data_offsets = [16, dice.below(16)]))],
  [
    'offsets that are no pair of whole numbers',
    (dice) =>
      changed(
        (e) =>
          (e['clip_l'].data_offsets = dice.pick<unknown>([
            [-16, 0],
            [0.5, 16.5],
            [0],
            [0, 16, 16],
            '0,16',
            null,
            [0, '16'],
            [0, 1e300],
            {},
          ])),
      ),
  ],
  [
    'a shape that is no list of whole numbers',
    (dice) =>
      changed(
        (e) =>
          (e['clip_l'].shape = dice.pick<unknown>([
            [-1, -4],
            [1.5, 4],
            '4',
            null,
            [['4']],
            [-0.5, 1],
            { 0: 4 },
            [2 ** 53, 1],
          ])),
      ),
  ],
  [
    'a shape beyond counting',
    (dice) => changed((e) => (e['clip_l'].shape = Array.from({ length: 2 + dice.below(6) }, () => 2 ** 30))),
  ],
  [
    'a shape of too many dimensions',
    (dice) => changed((e) => (e['clip_l'].shape = [4, ...Array.from({ length: 8 + dice.below(1000) }, () => 1)])),
  ],
  ['a shape that its bytes do not fill', (dice) => changed((e) => (e['clip_l'].shape = [5 + dice.below(1000)]))],
  [
    'an unknown number format',
    (dice) =>
      changed(
        (e) =>
          (e['clip_l'].dtype = dice.pick<unknown>(['F33', 'f32', '', null, 7, '__proto__', 'constructor', ['F32']])),
      ),
  ],
  [
    'a tensor that is no object',
    (dice) => safetensors(JSON.stringify({ clip_l: dice.pick<unknown>([null, 1, 'F32', [], true]) })),
  ],
  [
    'a key twice',
    (dice) => safetensors(`{${tensorText('a', 0)},${tensorText(dice.pick(['a', '\\u0061']), 1)}}`, Buffer.alloc(2)),
  ],
  [
    'a part of a tensor twice',
    () => safetensors('{"a":{"dtype":"U8","shape":[1],"shape":[2],"data_offsets":[0,1]}}', Buffer.alloc(1)),
  ],
  [
    'metadata that are no texts',
    (dice) =>
      safetensors(JSON.stringify({ __metadata__: dice.pick<unknown>([[], 'x', { a: 1 }, { a: { b: 'c' } }, 5]) })),
  ],
  [
    'a header that is no JSON',
    (dice) =>
      safetensors(
        dice.pick([
          '{',
          '{]',
          '[1]',
          '{"a":}',
          "{'a':1}",
          '{"a":1,}',
          '{}x',
          '{"a":NaN}',
          '\ufeff{}',
          ' {}',
          'null',
          '""',
          '{"\ud800":1}x',
        ]),
      ),
  ],
  [
    'a header that is no UTF-8',
    (dice) =>
      safetensors(Buffer.concat([Buffer.from('{"a'), Buffer.from([0x80 + dice.below(64)]), Buffer.from('":1}')])),
  ],
  [
    'a deep header',
    (dice) => {
      const depth = 1000 + dice.below(100_000)
      return safetensors(`{"a":${'['.repeat(depth)}${']'.repeat(depth)}}`)
    },
  ],
  [
    'names of the language',
    (dice) => {
      const name = dice.pick([
        '__proto__',
        'constructor',
        'toString',
        'hasOwnProperty',
        'valueOf',
        'a\\u0000b',
        '\\ud800',
        '\\u202e',
        'a\\nb',
        'x'.repeat(5000),
      ])
      return safetensors(`{${tensorText(name, 0)}}`, Buffer.alloc(1))
    },
  ],
  ['no tensors', () => safetensors('{}')],
]

// ---- whole files that fit nothing

/** A tensor of a good file: fp32 zeros, or any number. */
export function filled(shapes: Readonly<Record<string, readonly number[]>>, value = 0, dtype = 'F32'): Buffer {
  let end = 0
  const entries = Object.entries(shapes).map(([name, shape]) => {
    const start = end
    end += shape.reduce((product, size) => product * size, 1) * (dtype === 'I64' ? 8 : 4)
    return [name, { dtype, shape, data_offsets: [start, end] }] as const
  })
  const data = Buffer.alloc(end)
  if (dtype === 'F32') for (let at = 0; at < end; at += 4) data.writeFloatLE(value, at)
  return safetensors(JSON.stringify(Object.fromEntries(entries)), data)
}

/** Names that files of every kind have. */
export const someNames = [
  'weight',
  'clip_l',
  'clip_g',
  'emb_params',
  '<s0>',
  'lora_unet_x.lora_down.weight',
  'encoder.conv_in.weight',
  'decoder.conv_in.weight',
  'encoder.down.0.block.0.conv1.weight',
  'encoder.down_blocks.0.resnets.0.conv1.weight',
  'model.diffusion_model.label_emb.0.0.weight',
  'conditioner.embedders.0.transformer.text_model.x',
  'control_model.input_hint_block.0.weight',
  'lora_controlnet',
  'controlnet_cond_embedding.conv_in.weight',
  'down_blocks.0.x',
  'double_blocks.0.img_attn.x',
  'first_stage_model.encoder.conv_in.weight',
  'lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight',
  'lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha',
]

export const contentWays: readonly Way[] = [
  [
    'vectors that are no numbers',
    (dice) => filled({ clip_l: [1, 768], clip_g: [1, 1280] }, dice.pick([NaN, Infinity, -Infinity])),
  ],
  ['whole numbers for vectors', () => filled({ clip_l: [1, 768], clip_g: [1, 1280] }, 0, 'I64')],
  ['too many vectors', (dice) => filled({ clip_l: [76 + dice.below(50), 768], clip_g: [76, 1280] })],
  ['no vectors', () => filled({ clip_l: [0, 768], clip_g: [0, 1280] })],
  ['vectors without width', (dice) => filled({ clip_l: dice.pick([[3, 0], [0], [], [1, 1, 768]]), clip_g: [3, 1280] })],
  [
    'vectors of another model',
    (dice) => filled({ [dice.pick(['clip_l', 'emb_params', '<cat>'])]: [2, dice.pick([767, 768, 1024, 1])] }),
  ],
  [
    'names of every kind in one file',
    (dice) => {
      const shape = (): number[] => Array.from({ length: dice.below(5) }, () => dice.below(5))
      return filled(
        Object.fromEntries(Array.from({ length: 2 + dice.below(6) }, () => [dice.pick(someNames), shape()])),
      )
    },
  ],
  [
    'levels without end',
    (dice) => {
      const start = dice.pick([
        'encoder.down.',
        'encoder.down_blocks.',
        'model.diffusion_model.input_blocks.',
        'down_blocks.',
      ])
      return filled(
        Object.fromEntries(Array.from({ length: 500 }, (_, level) => [`${start}${level}.block.0.conv1.weight`, [1]])),
      )
    },
  ],
  [
    'a LoRA whose numbers are odd',
    (dice) => {
      const module = 'lora_te1_text_model_encoder_layers_0_mlp_fc1'
      return filled(
        {
          [`${module}.lora_down.weight`]: [dice.below(3), dice.pick([0, 5, 31])],
          [`${module}.lora_up.weight`]: [37, dice.below(3)],
          [`${module}.alpha`]: dice.pick([[], [2], [0]]),
        },
        NaN,
      )
    },
  ],
  [
    'a ControlNet of another model',
    () =>
      filled({ 'controlnet_cond_embedding.conv_in.weight': [16, 3, 3, 3], 'add_embedding.linear_1.weight': [4, 5] }),
  ],
]
