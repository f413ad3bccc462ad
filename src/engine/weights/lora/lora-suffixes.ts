// What stands behind a module's name, and which part of a change it names.

/** The parts of all families. */
export const loraRoles = [
  'down',
  'up',
  'mid',
  'upBias',
  'alpha',
  'doraScale',
  'magnitude',
  'hadaW1a',
  'hadaW1b',
  'hadaW2a',
  'hadaW2b',
  'hadaT1',
  'hadaT2',
  'lokrW1',
  'lokrW1a',
  'lokrW1b',
  'lokrW2',
  'lokrW2a',
  'lokrW2b',
  'lokrT2',
  'diff',
  'diffBias',
  'normWeight',
  'normBias',
  'factor',
  'onInput',
] as const
export type LoraRole = (typeof loraRoles)[number]

/** A tensor's name taken apart. */
export type SplitName = {
  readonly module: string
  readonly role: LoraRole
  /** Whether the module is named as in diffusers' former attention processors. */
  readonly processor: boolean
  /** The name that another part of the same module has in this file's style. */
  readonly nameOf: (role: LoraRole) => string
}

type Style = { readonly processor?: boolean; readonly suffixes: Readonly<Partial<Record<LoraRole, string>>> }

const common = {
  alpha: '.alpha',
  doraScale: '.dora_scale',
  hadaW1a: '.hada_w1_a',
  hadaW1b: '.hada_w1_b',
  hadaW2a: '.hada_w2_a',
  hadaW2b: '.hada_w2_b',
  hadaT1: '.hada_t1',
  hadaT2: '.hada_t2',
  lokrW1: '.lokr_w1',
  lokrW1a: '.lokr_w1_a',
  lokrW1b: '.lokr_w1_b',
  lokrW2: '.lokr_w2',
  lokrW2a: '.lokr_w2_a',
  lokrW2b: '.lokr_w2_b',
  lokrT2: '.lokr_t2',
  diff: '.diff',
  diffBias: '.diff_b',
  normWeight: '.w_norm',
  normBias: '.b_norm',
  factor: '.weight',
  onInput: '.on_input',
} as const

/** The first style that has a suffix wins, so that the longer ones come first. */
const styles: readonly Style[] = [
  { suffixes: { down: '.lora_down.weight', up: '.lora_up.weight', mid: '.lora_mid.weight', ...common } },
  { suffixes: { down: '.lora_linear_layer.down.weight', up: '.lora_linear_layer.up.weight', ...common } },
  { suffixes: { down: '.lora.down.weight', up: '.lora.up.weight', ...common } },
  { processor: true, suffixes: { down: '.down.weight', up: '.up.weight', alpha: '.alpha' } },
]

/** PEFT's names: the last part may be absent, and the adapter's name may stand before it. */
const peftPattern = /^(.+)\.(lora_A|lora_B|lora_magnitude_vector)(?:((?:\.[A-Za-z0-9_-]+)?)(\.weight|\.bias))?$/

/** The ways to take a tensor's name apart; which is right depends on the module's name being one. */
export function splitName(name: string): SplitName[] {
  const found: SplitName[] = []
  const peft = peftPattern.exec(name)
  if (peft) {
    const [, module, part, adapter = '', last = ''] = peft
    const isBias = last === '.bias'
    const nameOf = peftNames(module, adapter, last)
    if (part === 'lora_B') found.push({ module, role: isBias ? 'upBias' : 'up', processor: false, nameOf })
    else if (!isBias) found.push({ module, role: part === 'lora_A' ? 'down' : 'magnitude', processor: false, nameOf })
  }
  for (const { suffixes, processor = false } of styles)
    for (const role of loraRoles) {
      const suffix = suffixes[role]
      if (suffix === undefined || !name.endsWith(suffix)) continue
      const module = name.slice(0, -suffix.length)
      found.push({ module, role, processor, nameOf: (other) => `${module}${suffixes[other] ?? ` (${other})`}` })
    }
  return found
}

function peftNames(module: string, adapter: string, last: string): SplitName['nameOf'] {
  const parts = { down: '.lora_A', up: '.lora_B', magnitude: '.lora_magnitude_vector' }
  const end = last === '' ? '' : '.weight'
  return (role) =>
    Object.hasOwn(parts, role)
      ? `${module}${parts[role as keyof typeof parts]}${adapter}${end}`
      : `${module}${common[role as keyof typeof common] ?? ` (${role})`}`
}
