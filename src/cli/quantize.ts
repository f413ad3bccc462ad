// `sepia quantize`: a model made ready for int8, and what that does to each of its layers.
import path from 'node:path'
import { EngineProcess } from '#worker/engine-process.ts'
import type { QuantizeResult } from '#worker/protocol.ts'
import type { Config } from '../config.ts'
import { locateModel } from './asset-places.ts'
import { formatBytes } from './doctor.ts'
import { resolveEngine, type EngineOptions } from './generate-options.ts'
import { showProgress } from './progress-bar.ts'
import type { Terminal } from './terminal.ts'

/** The options of `sepia quantize`, as typed. */
export type QuantizeOptions = Omit<EngineOptions, 'precision'> & { readonly json?: boolean; readonly verbose?: boolean }

/** Layers with the largest errors that the report names. */
const shownLayers = 10

/** Prepare the model and print the report. Throws as a picture of it in int8 would. */
export async function quantize(
  model: string,
  options: QuantizeOptions,
  config: Config,
  terminal: Terminal,
): Promise<void> {
  const settings = resolveEngine({ ...options, precision: 'int8' }, config)
  const place = path.resolve(await locateModel('quantize', model, options, config))
  const { signal, engineEntry: entry } = terminal
  const verbose = options.verbose ?? false
  using display = showProgress(terminal, 1, verbose)
  await using engine = await EngineProcess.start(settings, {
    signal,
    entry,
    ...(verbose && { onOutput: (text: string) => display.interrupt(() => terminal.stderr.write(text)) }),
  })
  const result = await engine.quantize(place, { signal, onProgress: (progress) => display.update(progress) })
  display[Symbol.dispose]()
  if (!options.json) for (const warning of result.warnings) terminal.stderr.write(`sepia: warning: ${warning}\n`)
  terminal.stdout.write(`${options.json ? JSON.stringify(result) : renderQuantization(result)}\n`)
}

/** The report as lines for a terminal, without a line feed at the end. */
export function renderQuantization(result: QuantizeResult): string {
  const { backend, layers, network, outputErrors, roundedBytes, sourceBytes, weightLimit } = result
  const int8 = layers.filter((layer) => layer.int8)
  const rows: (readonly [string, string])[] = [
    ['UNet', network],
    ['Backend', backend],
    ['Layers', `${int8.length} in int8, ${layers.length - int8.length} left as they are for their error`],
    ['Weights', `${formatBytes(roundedBytes)}, out of ${formatBytes(sourceBytes)}`],
  ]
  if (weightLimit < 127)
    rows.push(['Rounding', `weights of at most ${weightLimit}: this CPU has no VNNI, which makes int8 slower too`])
  if (outputErrors === null) rows.push(['Ranges', 'found as the values come, row by row; nothing had to be measured'])
  else
    rows.push([
      'Error',
      `of the whole network ${outputErrors.map(({ timestep, error }) => `${percent(error)} at t=${Math.round(timestep)}`).join(', ')}`,
    ])
  const errors = layers.flatMap(({ error, int8: rounded, method, path: layer }) =>
    error === undefined ? [] : [{ layer, error, how: rounded ? (method ?? '') : 'left as it is' }],
  )
  errors.sort((a, b) => b.error - a.error)
  if (errors.length > 0)
    rows.push(['', `of a layer ${percent(errors[Math.floor(errors.length / 2)].error)} in the middle, at most:`])
  for (const { error, how, layer } of errors.slice(0, shownLayers))
    rows.push(['', `${percent(error).padStart(7)}  ${how.padEnd(13)}  ${layer}`])
  const width = Math.max(...rows.map(([label]) => label.length)) + 2
  return rows.map(([label, value]) => label.padEnd(width) + value).join('\n')
}

function percent(part: number): string {
  return `${(part * 100).toFixed(2)} %`
}
