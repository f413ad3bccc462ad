import type { GenerateTask } from './protocol.ts'

/** What a PNG says of how it was made: one text chunk a parameter, enough to make the picture again. */
export function pngText(task: GenerateTask, seed: number, modelHash: string): Record<string, string> {
  const optional = {
    prompt_2: task.prompt2,
    negative_prompt: task.negativePrompt,
    negative_prompt_2: task.negativePrompt2,
    clip_skip: task.clipSkip,
  }
  const given = Object.entries(optional).filter(([, value]) => value !== null)
  return {
    Software: 'Sepia',
    prompt: task.prompt,
    ...Object.fromEntries(given.map(([key, value]) => [key, String(value)])),
    seed: String(seed),
    steps: String(task.numInferenceSteps),
    cfg_scale: String(task.guidanceScale),
    sampler: task.sampler,
    width: String(task.width),
    height: String(task.height),
    model_hash: modelHash,
  }
}
