// How an engine process ended, in words for whoever waited for it.
import { AppError } from '../errors.ts'

/** How a child ended, as `close` reports it. */
export type Ending = {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly startError?: Error
}

/** What the task of a process that ended by itself is rejected with. */
export function endingError(ending: Ending, output: string): AppError {
  // The terminal sends these to every process of its group, so they can reach the child while it starts.
  if (ending.signal === 'SIGINT' || ending.signal === 'SIGHUP') return new AppError('cancelled', 'cancelled')
  return new AppError('engine_crashed', describeEnding(ending, output), { cause: output })
}

/** The ending in one line, with the last that the process said. */
export function describeEnding({ code, signal, startError }: Ending, output: string): string {
  if (startError) return `the engine process could not be started: ${startError.message}`
  const words = lastWords(output)
  const saying = words ? `; its last words: ${words}` : ''
  if (signal === 'SIGKILL')
    return `the engine process was killed from outside (SIGKILL), most likely because memory ran out${saying}`
  if (signal) return `the engine process ended by signal ${signal}${saying}`
  return `the engine process ended with exit code ${code}${saying}`
}

/** What the output says last, in one line: the last error that names itself, else the last lines. */
function lastWords(output: string): string {
  const lines = output.split('\n').map((line) => line.trim())
  const spoken = lines.filter((line) => line !== '' && !/^(at |\d+: 0x|Node\.js v\d|-----|\^+$)/.test(line))
  const named = spoken.findLast((line) => /^(\w*Error( \[\w+\])?|FATAL ERROR): /.test(line))
  return (named ?? spoken.slice(-3).join(' / ')).slice(-400)
}
