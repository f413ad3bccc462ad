// The command line as a whole: its groups of commands, its exit codes, and what becomes of errors.
import { readFileSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import type { Config } from '../config.ts'
import { AppError, type ErrorCode } from '../errors.ts'
import { addAccountCommands } from './account-commands.ts'
import { addBackendCommands } from './backend-commands.ts'
import { addLibraryCommands } from './library-commands.ts'
import { addMachineCommands } from './machine-commands.ts'
import { addPictureCommands } from './picture-commands.ts'
import { addQuantizeCommand } from './quantize-command.ts'
import { addServiceCommands } from './service-commands.ts'
import type { Terminal } from './terminal.ts'

const programHelp = `
Examples:
  sepia generate "a red apple on a light blue background"
  sepia generate "a lighthouse at dusk" --model sd_xl_base_1.0.safetensors \\
    --seed 7 -o lighthouse.png
  sepia inspect sd_xl_base_1.0.safetensors
  sepia doctor

Each command explains itself: sepia generate --help`

/** Exit codes: bad usage is told apart, as shells do; a cancelled command ends like one ended by Ctrl-C. */
export const exitCodes = { ok: 0, failure: 1, usage: 2, cancelled: 130 } as const

const usageErrors: ReadonlySet<ErrorCode> = new Set(['bad_argument', 'bad_prompt', 'bad_size', 'bad_image'])

/** Run the command line `argv` (without program names) and give its exit code; every error is printed, none is thrown. */
export async function runCli(argv: readonly string[], terminal: Terminal, config: () => Config): Promise<number> {
  try {
    await buildProgram(terminal, config).parseAsync(argv, { from: 'user' })
    return exitCodes.ok
  } catch (error) {
    // Help and version are errors to commander too, with code 0.
    if (error instanceof CommanderError && error.exitCode === 0) return exitCodes.ok
    // Help for a command line without a command; it is printed already.
    if (error instanceof CommanderError && error.code === 'commander.help') return exitCodes.usage
    const failure = asAppError(error)
    printFailure(failure, error, argv, terminal)
    if (failure.code === 'cancelled') return exitCodes.cancelled
    return usageErrors.has(failure.code) ? exitCodes.usage : exitCodes.failure
  }
}

/** The program with all its commands; parsing runs them. */
export function buildProgram(terminal: Terminal, config: () => Config): Command {
  const program = new Command('sepia')
    .description('SDXL pictures on your own machine: the same seed gives the same picture as the reference.')
    .version(packageVersion(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'explain a command and its options')
    .helpCommand('help [command]', 'explain a command and its options')
    .exitOverride()
    .configureOutput({
      writeOut: (text) => void terminal.stdout.write(text),
      writeErr: (text) => void terminal.stderr.write(text),
      // Errors are printed once, by runCli, in the form that was asked for.
      outputError: () => {},
    })
    .addHelpText('after', programHelp)

  addPictureCommands(program, { terminal, config })
  addMachineCommands(program, { terminal, config })
  addBackendCommands(program, { terminal, config })
  addQuantizeCommand(program, { terminal, config })
  addLibraryCommands(program, { terminal, config })
  addServiceCommands(program, { terminal, config })
  addAccountCommands(program, { terminal, config })
  return program
}

function asAppError(error: unknown): AppError {
  if (error instanceof AppError) return error
  if (error instanceof CommanderError) {
    const hint = error.code === 'commander.excessArguments' ? ' Put a prompt of several words in quotes.' : ''
    return new AppError('bad_argument', oneLine(error.message.replace(/^error: /, '')) + hint, { cause: error })
  }
  const message = error instanceof Error ? error.message : String(error)
  return new AppError('internal', oneLine(message), { cause: error })
}

function printFailure(failure: AppError, original: unknown, argv: readonly string[], terminal: Terminal): void {
  // Commander may have stopped before it came to these options, so they are looked for here.
  const flags = argv.includes('--') ? argv.slice(0, argv.indexOf('--')) : argv
  const { code, message } = failure
  if (flags.includes('--json')) terminal.stdout.write(`${JSON.stringify({ error: { code, message } })}\n`)
  else terminal.stderr.write(`sepia: ${message}\n`)
  if (flags.includes('--verbose') && original instanceof Error) terminal.stderr.write(`${original.stack}\n`)
}

function oneLine(text: string): string {
  return text.trim().replaceAll(/\s+/g, ' ')
}

function packageVersion(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8')
  return (JSON.parse(text) as { version: string }).version
}
