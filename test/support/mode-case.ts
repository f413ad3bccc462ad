// The cases of tools/reference/modes.py as tasks.
import { join } from 'node:path'
import type { SamplerName } from '#diffusion/samplers.ts'
import type { GenerateTask, TaskFiles, TaskStart } from '#worker/protocol.ts'
import { goldenFolder } from './golden.ts'
import { tinyRefiner } from './mode-models.ts'
import { pictureTask } from './picture-task.ts'

/** One picture of tools/reference/modes.py; `init` and `mask` are names in its inputs folder. */
export type ModeCase = {
  readonly name: string
  readonly model: 'tiny-a' | 'tiny-b' | 'tiny-inpaint' | 'pocket'
  readonly mode: 'text' | 'image' | 'inpaint'
  readonly sampler: SamplerName
  readonly width: number
  readonly height: number
  readonly steps: number
  readonly cfg: number
  readonly seed: number
  readonly prompt: string
  readonly prompt_2?: string
  readonly negative_prompt?: string
  readonly clip_skip?: number
  readonly init?: string
  readonly mask?: string
  readonly strength?: number
  readonly padding?: number
  readonly split?: number
}

/** The folder of the cases, their inputs and pictures. */
export const modesFolder = join(goldenFolder, 'modes')

/** The task that makes a case's picture; pictures go by their names in place of hashes. */
export function modeTask(c: ModeCase): GenerateTask {
  return pictureTask({
    prompt: c.prompt,
    prompt2: c.prompt_2 ?? null,
    negativePrompt: c.negative_prompt ?? null,
    width: c.width,
    height: c.height,
    numInferenceSteps: c.steps,
    guidanceScale: c.cfg,
    sampler: c.sampler,
    seeds: [c.seed],
    clipSkip: c.clip_skip ?? null,
    start: startOf(c),
    refiner: c.split === undefined ? null : { denoisingEnd: c.split },
  })
}

/** Refiner and pictures of a case. */
export function modeFiles(c: ModeCase): Pick<TaskFiles, 'refiner' | 'pictures'> {
  const names = [c.init, c.mask].filter((name) => name !== undefined)
  return {
    refiner: c.split === undefined ? null : tinyRefiner,
    pictures: Object.fromEntries(names.map((name) => [name, join(modesFolder, 'inputs', `${name}.png`)])),
  }
}

function startOf({ init, mask, mode, padding, strength }: ModeCase): TaskStart {
  if (mode === 'text') return { mode: 'textToImage' }
  if (mode === 'image') return { mode: 'imageToImage', image: init!, strength: strength! }
  return { mode: 'inpaint', image: init!, mask: mask!, strength: strength!, fullResPadding: padding ?? null }
}
