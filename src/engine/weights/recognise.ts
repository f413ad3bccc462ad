// What a safetensors file is, by its keys and shapes; names of files and metadata are not believed.
import type { Shapes } from './ldm-keys.ts'

/** What a file holds: `family` for programs, `words` for people. */
export type Recognised = {
  readonly family: 'sdxl' | 'sdxl-unet' | 'other' | 'unknown'
  readonly words: string
}

type Rule = {
  readonly words: string
  readonly family?: Recognised['family']
  readonly test: (keys: readonly string[], shapes: Shapes) => boolean
}

const unetPrefix = 'model.diffusion_model.'

/** The first rule that fits names the file: additions to models come first, then whole models, then parts of them. */
const rules: readonly Rule[] = [
  {
    words: 'a LoRA (or a LyCORIS of its kind), which changes a model and is none itself',
    test: someKey(
      /\.(lora_(up|down|A|B)|lora\.(up|down))\b|\.(hada_w1_a|lokr_w[12](_a)?|oft_blocks|diff_b?)$|^lora_(unet|te)/,
    ),
  },
  {
    words: 'a ControlNet or T2I-Adapter',
    test: someKey(/^control_model\.|^controlnet_(cond_embedding|down_blocks)|input_hint_block|^lllite_|^adapter\./),
  },
  { words: 'an IP-Adapter', test: someKey(/^ip_adapter\.|^image_proj\./) },
  {
    words: 'a textual inversion (an embedding of words)',
    test: (keys) =>
      keys.length > 0 &&
      keys.length <= 4 &&
      keys.every((key) => /^(clip_[lg]|emb_params|string_to_param.*|<.*>)$/.test(key)),
  },
  { words: 'Stable Diffusion 3', test: someKey(/(^|\.)joint_blocks\.\d/) },
  { words: 'Flux', test: someKey(/(^|\.)(double_blocks\.\d+\.img_attn|single_transformer_blocks\.\d)/) },
  { words: 'Playground v2.5, which is no Stable Diffusion XL in its noise (EDM)', test: someKey(/^edm_(mean|std)$/) },
  { words: 'Stable Cascade', test: someKey(/(^|\.)clip_txt_mapper\.|down_blocks\.1\.0\.channelwise/) },
  {
    words: 'another diffusion transformer',
    test: someKey(/(^|\.)(x_embedder|patch_embedding|patchify_proj|img_in|t_embedder|cap_embedder)\./),
  },
  {
    words: 'Stable Diffusion XL',
    family: 'sdxl',
    test: (keys, shapes) =>
      shapes.has(`${unetPrefix}label_emb.0.0.weight`) && keys.some((key) => key.startsWith('conditioner.embedders.')),
  },
  {
    words: "a UNet of Stable Diffusion XL alone, without the text encoders (a single file's `conditioner.` tensors)",
    family: 'sdxl-unet',
    test: (_, shapes) => shapes.has(`${unetPrefix}label_emb.0.0.weight`),
  },
  { words: 'Stable Diffusion 2', test: (keys, shapes) => crossDim(keys, shapes) === 1024 && keys.some(isLdmUNet) },
  { words: 'Stable Diffusion 1', test: (keys, shapes) => crossDim(keys, shapes) === 768 && keys.some(isLdmUNet) },
  {
    words:
      "one network of a diffusers folder alone (a UNet's state dict); the model is the folder with model_index.json",
    test: someKey(/^(down_blocks|mid_block|up_blocks)\.\d*/),
  },
  { words: 'a UNet alone, without the prefix model.diffusion_model.', test: someKey(/^(input|output)_blocks\.\d/) },
  {
    words: 'an autoencoder (VAE) alone',
    test: (keys) =>
      !keys.some(isLdmUNet) && someKey(/^(first_stage_model\.|vae\.)?(encoder|decoder)\.(conv_in|mid)/)(keys),
  },
  {
    words: 'a text encoder alone',
    test: (keys) => !keys.some(isLdmUNet) && someKey(/text_model\.encoder\.layers\.|transformer\.resblocks\./)(keys),
  },
  { words: 'a T5 text encoder alone', test: someKey(/^encoder\.block\.0\.layer\./) },
]

/** Tell what the tensors of a file are. */
export function recognise(shapes: Shapes): Recognised {
  const keys = [...shapes.keys()]
  const rule = rules.find(({ test }) => test(keys, shapes))
  if (rule !== undefined) return { family: rule.family ?? 'other', words: rule.words }
  return { family: 'unknown', words: `of an unknown kind: ${kindsOfKeys(keys)}` }
}

function someKey(pattern: RegExp): (keys: readonly string[]) => boolean {
  return (keys) => keys.some((key) => pattern.test(key))
}

function isLdmUNet(key: string): boolean {
  return key.startsWith(`${unetPrefix}input_blocks.`)
}

/** Width of the text that a UNet attends to. */
function crossDim(keys: readonly string[], shapes: Shapes): number | null {
  const key = keys.find((name) => name.startsWith(unetPrefix) && name.endsWith('.attn2.to_k.weight'))
  return key === undefined ? null : (shapes.get(key)?.[1] ?? null)
}

/** The commonest beginnings of the keys, with their counts. */
function kindsOfKeys(keys: readonly string[]): string {
  if (keys.length === 0) return 'it holds no tensors'
  const counts = new Map<string, number>()
  for (const key of keys) {
    const start = key.split('.').slice(0, 2).join('.')
    counts.set(start, (counts.get(start) ?? 0) + 1)
  }
  const sorted = [...counts].sort(([, a], [, b]) => b - a).slice(0, 6)
  const shown = sorted.map(([start, count]) => `${start.slice(0, 60)} (${count})`).join(', ')
  return `its ${keys.length} tensors begin with ${shown}${counts.size > 6 ? ', …' : ''}`
}
