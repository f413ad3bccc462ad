// The log: one JSON object a line, one child a room, and nothing in it that is secret or somebody's words.
import pino from 'pino'

/** Writes log lines; `child({ room: 'http' })` writes those of a room. */
export type Logger = pino.Logger

/** How much is logged. */
export const logLevels = ['debug', 'info', 'warn', 'error', 'silent'] as const
export type LogLevel = (typeof logLevels)[number]

// Whatever object is logged: who asks, what for, and what came of it stays out, at the top and one level down.
const secrets = ['authorization', 'token', 'prompt', 'prompt2', 'negativePrompt', 'negativePrompt2', 'task', 'body']

/** A logger that writes to `destination`, standard error when there is none. */
export function createLogger(level: LogLevel, destination: pino.DestinationStream = pino.destination(2)): Logger {
  return pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { err: describeError },
      redact: { paths: secrets.flatMap((key) => [key, `*.${key}`, `*.*.${key}`]), censor: '[redacted]' },
    },
    destination,
  )
}

/**
 * An error without what it was about: errors of a database carry the values of their query, and with them prompts, also in
 * their message and stack.
 */
function describeError(error: unknown): unknown {
  if (!(error instanceof Error)) return error
  const { cause, message, name, stack } = error
  const { code } = error as { readonly code?: unknown }
  const head = withoutValues(message)
  return {
    type: name,
    message: head,
    ...((typeof code === 'string' || typeof code === 'number') && { code }),
    stack: stack?.replace(message, head),
    ...(cause instanceof Error && { cause: describeError(cause) }),
  }
}

/** drizzle writes the query into the message, and its values behind it. */
function withoutValues(message: string): string {
  const values = message.indexOf('\nparams: ')
  return values === -1 || !message.startsWith('Failed query: ') ? message : message.slice(0, values)
}
