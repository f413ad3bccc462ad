// What a file that does not fit most probably is, for the message that refuses it.
import { listOf } from '../match-weights.ts'

type Shapes = ReadonlyMap<string, readonly number[]>

/** Parts of names → the model that has them. */
const otherModels: readonly (readonly [RegExp, string])[] = [
  [/lora_prior_/, 'a LoRA of Stable Cascade'],
  [/lllite_/, 'a ControlNet-LLLite'],
  [/(^|[._])ip_adapter/, 'an IP-Adapter'],
  [/^(control_model\.|controlnet_)/, 'a ControlNet'],
  [
    /lora_te3_|joint_blocks|joint_transformer_blocks|^transformer\.transformer_blocks\./,
    'a LoRA of Stable Diffusion 3',
  ],
  [/double_blocks|single_blocks|single_transformer_blocks/, 'a LoRA of Flux'],
  [
    /^transformer\.|^lora_transformer_|^diffusion_model\.(blocks|layers)\./,
    'a LoRA of a transformer model (not of a UNet)',
  ],
]

/** Names that only the blocks of Stable Diffusion 1.x and 2.x have, or their single text encoder. */
const olderNames = /down_blocks_0_attentions|up_blocks_3_attentions|input_blocks_1_1_|output_blocks_11_1_|^lora_te_/

/** Width of the text that cross-attention reads → model. */
const textWidths: Readonly<Record<number, string>> = {
  768: 'a LoRA of Stable Diffusion 1.x',
  1024: 'a LoRA of Stable Diffusion 2.x',
  1280: "a LoRA of Stable Diffusion XL's refiner",
  2048: 'a LoRA of Stable Diffusion XL',
}

/** What a LoRA file is, by its names and shapes; null when they tell nothing. */
export function recogniseLora(shapes: Shapes): string | null {
  for (const name of shapes.keys()) for (const [pattern, words] of otherModels) if (pattern.test(name)) return words
  for (const [name, shape] of shapes)
    if (/attn2[._](processor\.)?to_[kv](_lora)?\.(lora_down|lora_A|lora\.down|down)/.test(name)) {
      const words = textWidths[shape[1] ?? 0]
      if (words !== undefined) return words
    }
  for (const name of shapes.keys()) if (olderNames.test(name)) return 'a LoRA of Stable Diffusion 1.x or 2.x'
  return null
}

/** Families and parts that are known and not supported. */
const unsupported: readonly (readonly [RegExp, string])[] = [
  [/\.(oft_|boft_)|^oft_unet_/, 'OFT and BOFT'],
  [/\.(a1|a2|b1|b2)\.weight$/, 'GLoRA'],
  [/\.(set_weight|reshape_weight)$/, 'replaced weights (set_weight, reshape_weight)'],
  [/\.bias_(indices|values|size)$/, 'sparse weights (bias_indices, bias_values)'],
  [/^bundle_emb\./, 'bundled textual inversions (bundle_emb)'],
]

/** The words for tensors of a known kind that is not supported, with their names; null when there are none. */
export function unsupportedParts(names: readonly string[]): string | null {
  for (const [pattern, words] of unsupported) {
    const found = names.filter((name) => pattern.test(name))
    if (found.length > 0) return `it has ${words}, which are not supported: ${listOf(found)}`
  }
  return null
}
