// An engine process for tests of the service: real process, real protocol, tasks that do what their prompts say. Words
// after the first are the behaviour's arguments.
import { appendFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { EngineHooks } from '#worker/request-loop.ts'
import { serveRequests } from '#worker/request-loop.ts'
import type { AssetInspection, AssetReport, GenerateResult, GenerateTask, TaskFiles } from '#worker/protocol.ts'
import { AppError } from '../../src/errors.ts'

const result: GenerateResult = {
  backend: 'onnxruntime',
  precision: 'fp32',
  modelHash: 'ab'.repeat(32),
  refinerHash: null,
  timings: {
    loadMs: 1,
    encodePromptMs: 1,
    encodeStartMs: 0,
    stepMs: [1, 1],
    decodeMs: 1,
    encodeImageMs: 1,
    totalMs: 6,
  },
  warnings: [],
}

async function pictures(task: GenerateTask, { onImage, onProgress }: EngineHooks): Promise<GenerateResult> {
  for (const [index, seed] of task.seeds.entries()) {
    onProgress({ phase: 'denoise', image: index, step: 1, of: task.numInferenceSteps })
    await onImage(index, seed, new Uint8Array([index + 1, index + 1, index + 1]))
  }
  return result
}

async function until(file: string): Promise<void> {
  while (!existsSync(file)) await sleep(2)
}

async function behave(task: GenerateTask, files: TaskFiles, hooks: EngineHooks): Promise<GenerateResult> {
  const [behaviour, file = ''] = task.prompt.split(' ')
  switch (behaviour) {
    case 'pictures':
      return pictures(task, hooks)
    // Notes in a file that it ran, by its seed.
    case 'note':
      appendFileSync(file, `${task.seeds[0]}\n`)
      return pictures(task, hooks)
    // Says that it runs, again and again for those who watch late, until a file is there.
    case 'wait': {
      const tell = (): void =>
        hooks.onProgress({ phase: 'denoise', image: 0, step: 1, of: 2, preview: new Uint8Array([9, 9]) })
      tell()
      const timer = setInterval(tell, 20)
      await until(file)
      clearInterval(timer)
      return pictures(task, hooks)
    }
    case 'crash':
      return process.abort()
    case 'words':
      process.stderr.write('Error: no\0tensor\n', () => process.exit(3))
      return new Promise(() => {})
    case 'crash-once':
      if (existsSync(file)) return pictures(task, hooks)
      appendFileSync(file, 'crashed')
      return process.abort()
    case 'refuse':
      throw new AppError('bad_size', 'width must be a multiple of 8, got 1020', { field: 'width' })
    case 'nan':
      throw new AppError('not_finite', 'the picture has values that are no numbers')
    case 'memory':
      throw new AppError('out_of_memory', 'no memory for the UNet')
    case 'oops':
      throw new TypeError('undefined is not a picture')
    // Gives back the pictures that it starts from.
    case 'echo': {
      const places = Object.values(files.pictures)
      await Promise.all(places.map((place, index) => hooks.onImage(index, 0, readFileSync(place))))
      return result
    }
    case 'files':
      throw new AppError('bad_argument', JSON.stringify(files))
    default:
      throw new AppError('bad_prompt', `fixture engine: unknown behaviour ${behaviour}`)
  }
}

/** Uploads say themselves what they are: `word argument`. */
async function inspect({ path, output, kind }: AssetInspection): Promise<AssetReport> {
  const [behaviour, argument = ''] = readFileSync(path, 'latin1').slice(0, 500).split(' ')
  const report: AssetReport = {
    kind,
    fileFormat: 'safetensors',
    converted: false,
    architecture: 'Stable Diffusion XL',
    dataType: 'fp16',
    tensors: 2,
    parameters: 10,
    triggerWords: ['told'],
    thumbnail: null,
    warnings: [],
    details: { kind: 'textual_inversion', vectors: 2 },
  }
  switch (behaviour) {
    case 'good':
      return report
    case 'pickle':
      writeFileSync(output, `good ${argument}`)
      return { ...report, fileFormat: 'pt', converted: true }
    // Looks until a file is there.
    case 'wait':
      await until(argument)
      return report
    case 'crash':
      return process.abort()
    default:
      throw new AppError('bad_file', `${path}: is no ${kind}`)
  }
}

serveRequests(() => ({
  generate: behave,
  inspect: async (file) => {
    throw new AppError('bad_file', `${file}: is not a model`)
  },
  inspectAsset: inspect,
  quantize: async () => {
    throw new Error('quantize: not in this engine')
  },
  choose: async () => ({ backend: 'onnxruntime', precision: 'fp32' }),
  cancel: () => {},
  probe: async () => ({
    onnxruntimeVersion: '',
    providers: [],
    openvino: { works: false, reason: 'none' },
    choice: { refusal: 'none' },
  }),
  [Symbol.asyncDispose]: async () => {},
}))
