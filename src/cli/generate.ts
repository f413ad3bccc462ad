// `sepia generate`: from the command line to files, by way of one engine process.
import { EngineProcess } from '#worker/engine-process.ts'
import type { GenerateTask } from '#worker/protocol.ts'
import type { Config } from '../config.ts'
import { resolveEngine, resolveModel, resolveTask, type GenerateOptions } from './generate-options.ts'
import { planOutput, writePicture } from './output-files.ts'
import { seconds, showProgress } from './progress-bar.ts'
import type { Terminal } from './terminal.ts'

/** Make the pictures that the options ask for and print where they are. Throws the AppError of what goes wrong. */
export async function generate(
  prompt: string,
  options: GenerateOptions,
  config: Config,
  terminal: Terminal,
): Promise<void> {
  const settings = resolveEngine(options, config)
  const resolved = resolveTask(prompt, options)
  const files = resolveModel(options.model, config)
  const output = planOutput(options.output, resolved.seeds)
  const task: GenerateTask = { ...resolved, imageEncoding: output.imageEncoding }

  const images: { path: string; seed: number; width: number; height: number }[] = []
  let lastImageMs = performance.now()
  const verbose = options.verbose ?? false
  using display = showProgress(terminal, task.seeds.length, verbose)
  const { signal, engineEntry: entry } = terminal
  await using engine = await EngineProcess.start(settings, {
    signal,
    entry,
    ...(verbose && { onOutput: (text: string) => display.interrupt(() => terminal.stderr.write(text)) }),
  })
  const result = await engine.generate(task, files, {
    signal,
    onProgress: (progress) => display.update(progress),
    onImage: (index, seed, bytes) => {
      const path = output.pathOf(index)
      writePicture(path, bytes)
      images.push({ path, seed, width: task.width, height: task.height })
      const tookMs = performance.now() - lastImageMs
      lastImageMs += tookMs
      if (!options.json) display.interrupt(() => terminal.stdout.write(`${path}  seed ${seed}  ${seconds(tookMs)}\n`))
    },
  })
  display[Symbol.dispose]()
  if (options.json) terminal.stdout.write(`${JSON.stringify({ images, ...result }, roundedTimes)}\n`)
  else for (const warning of result.warnings) terminal.stderr.write(`sepia: warning: ${warning}\n`)
}

/** Times to a tenth of a millisecond; all other numbers are whole. */
function roundedTimes(_key: string, value: unknown): unknown {
  return typeof value === 'number' ? Math.round(value * 10) / 10 : value
}
