import path from 'node:path'
import type { SamplerName } from '#diffusion/samplers.ts'
import type { GenerateTask } from '#worker/protocol.ts'
import { pictureTask } from './picture-task.ts'

/** One picture of tools/reference/parity.py. */
export type ParityCase = {
  readonly name: string
  readonly model: 'tiny-a' | 'tiny-b' | 'pocket' | 'shipped'
  readonly sampler: SamplerName
  readonly width: number
  readonly height: number
  readonly cfg: number
  readonly seed: number
  readonly steps: number
  readonly prompt: string
  readonly prompt_2?: string
  readonly negative_prompt?: string
  readonly negative_prompt_2?: string
  readonly clip_skip?: number
}

const root = path.join(import.meta.dirname, '../..')

/** The folder of the model that a case was made with. */
export function modelOf({ model }: ParityCase): string {
  return path.join(root, model === 'shipped' ? 'models/pocket' : `test/golden/models/${model}`)
}

/** The task that makes a case's picture. */
export function taskOf(c: ParityCase): GenerateTask {
  return pictureTask({
    prompt: c.prompt,
    prompt2: c.prompt_2 ?? null,
    negativePrompt: c.negative_prompt ?? null,
    negativePrompt2: c.negative_prompt_2 ?? null,
    width: c.width,
    height: c.height,
    numInferenceSteps: c.steps,
    guidanceScale: c.cfg,
    sampler: c.sampler,
    seeds: [c.seed],
    clipSkip: c.clip_skip ?? null,
  })
}
