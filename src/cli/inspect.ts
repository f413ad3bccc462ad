// `sepia inspect`: what a model file is, in words. Reading and hashing happen in an engine process.
import { statSync } from 'node:fs'
import path from 'node:path'
import type { ParametersByDType } from '#engine/weights/inspect.ts'
import { EngineProcess } from '#worker/engine-process.ts'
import type { InspectResult } from '#worker/protocol.ts'
import type { Config } from '../config.ts'
import { AppError } from '../errors.ts'
import { formatBytes } from './doctor.ts'
import { resolveEngine, type EngineOptions } from './generate-options.ts'
import { componentWords, showProgress } from './progress-bar.ts'
import type { Terminal } from './terminal.ts'

/** The options of `sepia inspect`, as typed. */
export type InspectOptions = Pick<EngineOptions, 'cache'> & { readonly json?: boolean }

/** Print what the file or folder is. Throws `model_not_found`, `bad_file`, and what hashing runs into. */
export async function inspect(
  target: string,
  options: InspectOptions,
  config: Config,
  terminal: Terminal,
): Promise<void> {
  const settings = resolveEngine(options, config)
  const place = path.resolve(target)
  if (target === '' || !statSync(place, { throwIfNoEntry: false }))
    throw new AppError('model_not_found', `inspect: there is no file or folder ${target === '' ? '""' : place}`)
  const { signal, engineEntry: entry } = terminal
  using display = showProgress(terminal, 1, false)
  await using engine = await EngineProcess.start(settings, { signal, entry })
  const result = await engine.inspect(place, { signal, onProgress: (progress) => display.update(progress) })
  display[Symbol.dispose]()
  const { report, ...hashes } = result
  terminal.stdout.write(`${options.json ? JSON.stringify({ ...report, ...hashes }) : renderInspection(result)}\n`)
}

/** The report as lines for a terminal, without a line feed at the end. */
export function renderInspection({ report, modelHash, componentHashes, unusable }: InspectResult): string {
  const prediction = `${report.predictionType}${report.zeroTerminalSnr ? ', zero terminal SNR' : ''}`
  const rows: (readonly [string, string | null])[] = [
    ['File', report.path],
    ['Title', report.title],
    ['Is', report.architecture],
    ['Usable', unusable ? `no${reason(unusable.message, report)}` : 'yes'],
    ['Kind', report.kind],
    ['Layout', report.layout === 'diffusers' ? 'diffusers folder' : 'single file'],
    ['Size', formatBytes(report.sizeBytes)],
    ['Weights', report.parameters > 0 ? `${count(report.parameters)}, ${dtypesInWords(report.dtypes)}` : null],
    ['Prediction', report.predictionType === null ? null : prediction],
    ['Vocabulary', report.vocabularySize === null ? null : `${report.vocabularySize} tokens`],
    ...report.components.flatMap(({ name, summary, parameters, dtypes, sizeBytes }): [string, string | null][] => [
      [capitalised(componentWords[name]), `${count(parameters)}, ${dtypesInWords(dtypes)}, ${formatBytes(sizeBytes)}`],
      ['', summary],
      ['', componentHashes[name] ?? null],
    ]),
    ['Missing', report.missing.length > 0 ? listed(report.missing) : null],
    ['Hash', modelHash],
  ]
  const told = rows.filter(([, value]) => value !== null)
  const width = Math.max(...told.map(([label]) => label.length)) + 2
  return told.map(([label, value]) => label.padEnd(width) + value).join('\n')
}

/** The reason without what two lines above say already. */
function reason(message: string, { path, architecture }: InspectResult['report']): string {
  const named = `file ${path} is ${architecture}; `
  return message.startsWith(named) ? `; ${message.slice(named.length)}` : `: ${message}`
}

function count(parameters: number): string {
  if (parameters >= 1e9) return `${(parameters / 1e9).toFixed(2)} billion parameters`
  return parameters >= 1e6 ? `${(parameters / 1e6).toFixed(1)} million parameters` : `${parameters} parameters`
}

/** "F16", or for several formats each one's share, the largest first: "F16 98 %, F32 2 %". */
function dtypesInWords(dtypes: ParametersByDType): string {
  const shares = Object.entries(dtypes).sort(([, a], [, b]) => b - a)
  const total = shares.reduce((sum, [, parameters]) => sum + parameters, 0)
  if (shares.length <= 1) return shares.map(([dtype]) => dtype).join('')
  return shares.map(([dtype, parameters]) => `${dtype} ${percent(parameters / total)}`).join(', ')
}

function percent(share: number): string {
  if (share < 0.01) return 'below 1 %'
  return share > 0.99 ? 'over 99 %' : `${Math.round(share * 100)} %`
}

function listed(names: readonly string[]): string {
  const shown = names.slice(0, 10).join(', ')
  return names.length <= 10 ? shown : `${names.length} tensors: ${shown}, …`
}

function capitalised(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1)
}
