// The command `sepia`: signals → one AbortSignal, the command's answer → the exit code.
import { constants } from 'node:os'
import { runCli, exitCodes } from './cli/program.ts'
import { readEnv, resolveConfig } from './config.ts'

const ending = new AbortController()
const urgent = new AbortController()
let endedBy: NodeJS.Signals = 'SIGINT'

function end(signal: NodeJS.Signals): void {
  if (ending.signal.aborted) return urgent.abort()
  endedBy = signal
  ending.abort()
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, end)

// bin/sepia.js keeps a channel open when it started this process; it closes when that one is killed.
process.once('disconnect', () => end('SIGTERM'))
process.channel?.unref()

// Whoever read our output has gone (a pipe: EPIPE, a terminal: EIO), so nobody waits for the rest either.
for (const stream of [process.stdout, process.stderr])
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE' && error.code !== 'EIO') throw error
    end('SIGPIPE')
  })

const exitCode = await runCli(
  process.argv.slice(2),
  { stdout: process.stdout, stderr: process.stderr, signal: ending.signal, urgent: urgent.signal },
  () => resolveConfig(readEnv()),
)
process.exitCode = exitCode === exitCodes.cancelled ? 128 + constants.signals[endedBy] : exitCode
