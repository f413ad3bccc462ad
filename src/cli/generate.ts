// `sepia generate`: from the command line to files, by way of one engine process.
import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import { EngineProcess } from '#worker/engine-process.ts'
import type { GenerateTask, TaskFiles } from '#worker/protocol.ts'
import type { Config } from '../config.ts'
import { AppError } from '../errors.ts'
import { locateModel } from './asset-places.ts'
import { nameAssets, readAssets } from './asset-references.ts'
import { resolveEngine, resolveModels, resolveTask, type GenerateOptions } from './generate-options.ts'
import { planOutput, writePicture, type OutputSheet } from './output-files.ts'
import { readPictureFile, type PictureFile } from './picture-file.ts'
import { seconds, showProgress } from './progress-bar.ts'
import { resolveStart } from './start-options.ts'
import type { Terminal } from './terminal.ts'

/** Make the pictures that the options ask for and print where they are. Throws the AppError of what goes wrong. */
export async function generate(
  prompt: string,
  options: GenerateOptions,
  config: Config,
  terminal: Terminal,
): Promise<void> {
  // 1. the order, complete and checked before anything is begun
  const settings = resolveEngine(options, config)
  const resolved = resolveTask(prompt, options)
  const { files: models, refiner } = resolveModels(await withNamedModels(options, config), config)
  const named = await nameAssets(options, config)
  const { pictures, warnings: startWarnings, ...start } = await resolveStart(options)
  const output = planOutput(options.output, resolved.seeds, options.grid)

  // 2. the engine, which also reads files in other formats
  const verbose = options.verbose ?? false
  using display = showProgress(terminal, resolved.seeds.length, verbose)
  const { signal, engineEntry: entry } = terminal
  await using engine = await EngineProcess.start(
    { ...settings, singleTask: true },
    {
      signal,
      entry,
      ...(verbose && { onOutput: (text: string) => display.interrupt(() => terminal.stderr.write(text)) }),
    },
  )
  const { assets, ...ownFiles } = await readAssets(named, engine, models.checkpoint)
  const { imageEncoding } = output
  const task: GenerateTask = { ...resolved, ...ownFiles, ...start, refiner, imageEncoding }
  const files: TaskFiles = { ...models, pictures: await storePictures(pictures, engine.scratchDir), assets }

  // 3. pictures, each saved when it comes
  const images: { path: string; seed: number; width: number; height: number }[] = []
  let lastImageMs = performance.now()
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
  const grid = output.sheet?.path ?? null
  if (output.sheet !== null)
    await writeSheet(
      images.map((image) => image.path),
      output.sheet,
    )

  // 4. what there is to tell
  display[Symbol.dispose]()
  const warnings = [...startWarnings, ...result.warnings]
  const report = { images, ...(grid !== null && { grid }), ...result, warnings }
  if (options.json) terminal.stdout.write(`${JSON.stringify(report, roundedTimes)}\n`)
  else if (grid !== null) terminal.stdout.write(`${grid}  all of them\n`)
  if (!options.json) for (const warning of warnings) terminal.stderr.write(`sepia: warning: ${warning}\n`)
}

/** The options with the places of models that were given by name. */
async function withNamedModels(options: GenerateOptions, config: Config): Promise<GenerateOptions> {
  const { model, refiner } = options
  return {
    ...options,
    ...(model !== undefined && { model: await locateModel('--model', model, options, config) }),
    ...(typeof refiner === 'string' && { refiner: await locateModel('--refiner', refiner, options, config) }),
  }
}

/**
 * Pictures in the engine's scratch folder, by their hashes: the engine reads what was checked here, a pipe need be read
 * only once, and the folder goes however the command ends.
 */
async function storePictures(pictures: readonly PictureFile[], folder: string): Promise<TaskFiles['pictures']> {
  const places = pictures.map(({ hash }) => [hash, path.join(folder, `picture-${hash}`)] as const)
  try {
    for (const [index, [, place]] of places.entries()) await writeFile(place, pictures[index].bytes)
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : String(error)
    const isFull = code === 'ENOSPC' || code === 'EDQUOT'
    throw new AppError(isFull ? 'disk_full' : 'cache_unwritable', `--cache: cannot write in ${folder} (${code})`, {
      cause: error,
    })
  }
  return Object.fromEntries(places)
}

/** The contact sheet of --grid, out of the saved pictures, so that none need be kept in memory. */
async function writeSheet(files: readonly string[], { path, imageEncoding }: OutputSheet): Promise<void> {
  const { ContactSheet } = await import('#image/contact-sheet.ts')
  const { decodePicture } = await import('#image/decode-picture.ts')
  const { encodeJpeg, encodePng } = await import('#image/codec.ts')
  const sheet = new ContactSheet()
  for (const file of files) sheet.add(await decodePicture((await readPictureFile('--grid', file)).bytes, '--grid'))
  const pixels = sheet.render()
  writePicture(path, imageEncoding === 'png' ? await encodePng(pixels) : await encodeJpeg(pixels), '--grid')
}

/** Times to a tenth of a millisecond; all other numbers are whole. */
function roundedTimes(_key: string, value: unknown): unknown {
  return typeof value === 'number' ? Math.round(value * 10) / 10 : value
}
