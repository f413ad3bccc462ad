// What a ControlNet file is, by its keys (arXiv 2302.05543; the layouts of diffusers and of CompVis' names).
import { AppError } from '../../errors.ts'
import type { Shapes } from './ldm-keys.ts'
import { recognise } from './recognise.ts'

export type ControlNetLayout = 'diffusers' | 'ldm' | 'union' | 'control-lora'

/** Values that Stable Diffusion XL's networks take beside the time: six numbers of 256 each and the pooled text. */
const sdxlAddedValues = 2816

/**
 * The layout of a ControlNet for Stable Diffusion XL with these tensors. Throws `wrong_architecture` for those of other
 * models and for other files; the tensors are not compared with a network.
 */
export function recogniseControlNet(path: string, shapes: Shapes): ControlNetLayout {
  const wrong = (problem: string): AppError => new AppError('wrong_architecture', `controlnet ${path}: ${problem}`)
  const has = (name: string): boolean => shapes.has(name) || shapes.has(`control_model.${name}`)
  const shapeOf = (name: string): readonly number[] | undefined =>
    shapes.get(name) ?? shapes.get(`control_model.${name}`)
  if (shapes.has('lora_controlnet')) {
    const added = shapeOf('label_emb.0.0.down') ?? shapeOf('label_emb.0.0.weight')
    if (added?.[1] !== sdxlAddedValues) throw wrong('it is a control LoRA of another model than Stable Diffusion XL')
    return 'control-lora'
  }
  const isDiffusers = has('controlnet_cond_embedding.conv_in.weight')
  const isLdm = has('input_hint_block.0.weight')
  if (!isDiffusers && !isLdm) throw wrong(`this is ${recognise(shapes).words}, not a ControlNet`)
  const added = shapeOf(isDiffusers ? 'add_embedding.linear_1.weight' : 'label_emb.0.0.weight')
  if (added === undefined) throw wrong('it is one of Stable Diffusion 1.x or 2.x; supported: Stable Diffusion XL')
  if (added[1] !== sdxlAddedValues)
    throw wrong(`its added embedding takes ${added[1]} values, Stable Diffusion XL's takes ${sdxlAddedValues}`)
  if (has('task_embedding') || has('control_add_embedding.linear_1.weight')) return 'union'
  return isDiffusers ? 'diffusers' : 'ldm'
}
