// The other way of ldm-unet.ts: where a module of diffusers' UNet stands under the names of Stability AI's
// generative-models, which most LoRA trainers write.
import type { UNetBlock, UNetConfig } from '../../models/unet-config.ts'

const fixedPaths: Readonly<Record<string, string>> = {
  'time_embedding.linear_1': 'time_embed.0',
  'time_embedding.linear_2': 'time_embed.2',
  'add_embedding.linear_1': 'label_emb.0.0',
  'add_embedding.linear_2': 'label_emb.0.2',
  conv_in: 'input_blocks.0.0',
  conv_norm_out: 'out.0',
  conv_out: 'out.2',
}

const resnetPaths: Readonly<Record<string, string>> = {
  norm1: 'in_layers.0',
  conv1: 'in_layers.2',
  norm2: 'out_layers.0',
  conv2: 'out_layers.3',
  time_emb_proj: 'emb_layers.1',
  conv_shortcut: 'skip_connection',
}

/** Translates the path of a module from diffusers' names to generative-models'; null for a path of no module. */
export function ldmPaths(config: UNetConfig): (path: string) => string | null {
  const blocks = blockPaths(config)
  return (path) => {
    if (Object.hasOwn(fixedPaths, path)) return fixedPaths[path]
    const match =
      /^((?:(?:down|up)_blocks\.\d+|mid_block)\.(resnets|attentions|downsamplers|upsamplers)\.\d+)\.(.+)$/.exec(path)
    const block = match && blocks.get(match[1])
    if (!match || block === undefined) return null
    const [, , kind, inner] = match
    if (kind === 'downsamplers') return `${block}.op`
    if (kind !== 'resnets') return `${block}.${inner}`
    return Object.hasOwn(resnetPaths, inner) ? `${block}.${resnetPaths[inner]}` : null
  }
}

/** diffusers' `down_blocks.1.attentions.0` → `input_blocks.4.1`, for every part of every block. */
function blockPaths({ downBlocks, midBlock, upBlocks }: UNetConfig): ReadonlyMap<string, string> {
  const paths = new Map<string, string>()
  let at = 1
  for (const [index, block] of downBlocks.entries()) {
    at = layerPaths(paths, `down_blocks.${index}`, 'input_blocks', block, at)
    if (block.resample) paths.set(`down_blocks.${index}.downsamplers.0`, `input_blocks.${at++}.0`)
  }

  paths.set('mid_block.resnets.0', 'middle_block.0')
  let middle = 1
  let attentions = 0
  for (const [index, depth] of (midBlock?.transformers ?? []).entries()) {
    if (depth !== null) paths.set(`mid_block.attentions.${attentions++}`, `middle_block.${middle++}`)
    paths.set(`mid_block.resnets.${index + 1}`, `middle_block.${middle++}`)
  }

  at = 0
  for (const [index, block] of upBlocks.entries()) {
    at = layerPaths(paths, `up_blocks.${index}`, 'output_blocks', block, at)
    // It stands in the block's last layer, behind the transformer where there is one.
    const place = block.transformers.at(-1) === null ? 1 : 2
    if (block.resample) paths.set(`up_blocks.${index}.upsamplers.0`, `output_blocks.${at - 1}.${place}`)
  }
  return paths
}

function layerPaths(paths: Map<string, string>, from: string, to: string, block: UNetBlock, start: number): number {
  let attentions = 0
  for (const [layer, depth] of block.transformers.entries()) {
    paths.set(`${from}.resnets.${layer}`, `${to}.${start + layer}.0`)
    if (depth !== null) paths.set(`${from}.attentions.${attentions++}`, `${to}.${start + layer}.1`)
  }
  return start + block.transformers.length
}
