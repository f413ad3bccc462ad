// The command line as commander knows it: commands, options, help, and what becomes of errors.
import { readFileSync } from 'node:fs'
import { Command, CommanderError, Option } from 'commander'
import { samplerNames } from '#diffusion/samplers.ts'
import type { Config } from '../config.ts'
import { AppError, type ErrorCode } from '../errors.ts'
import { doctor, type DoctorOptions } from './doctor-command.ts'
import { generate } from './generate.ts'
import type { GenerateOptions } from './generate-options.ts'
import { inspect, type InspectOptions } from './inspect.ts'
import type { Terminal } from './terminal.ts'

const programHelp = `
Examples:
  sepia generate "a red apple on a light blue background"
  sepia generate "a lighthouse at dusk" --model sd_xl_base_1.0.safetensors \\
    --seed 7 -o lighthouse.png
  sepia inspect sd_xl_base_1.0.safetensors
  sepia doctor

Each command explains itself: sepia generate --help`

const generateHelp = `
Examples:
  The shipped model, a random seed, sepia-<seed>.png in this folder:
    sepia generate "a red apple on a light blue background"
  Four pictures in a folder, with the seeds 7, 8, 9 and 10:
    sepia generate "a lighthouse at dusk" --seed 7 --num 4 -o pictures/
  Another model, another sampler, a wide picture:
    sepia generate "a quiet harbour, (morning fog:1.3)" -n "people, text" \\
      -m juggernaut.safetensors --sampler DPM_PLUS_PLUS_2M_KARRAS \\
      --steps 25 --cfg 6 --width 1344 --height 768 -o harbour.jpg
  For a script:
    sepia generate "a red apple" --json | jq -r '.images[].path'

Prompts:
  (word) counts 1.1 times, ((word)) 1.21 times, (word:0.6) 0.6 times; write
  \\( and \\) for brackets themselves. Up to 10000 characters, and up to 600
  tokens (a short word is one); nothing is cut off. A prompt that begins with
  a dash goes after two dashes: sepia generate -- "-40 degrees".

Pictures:
  A picture appears under its name only when it is complete. An existing file
  named by --output is replaced; a name chosen by sepia never is. Ctrl-C ends
  at once and leaves nothing behind. A PNG carries its prompt, seed, sampler
  and the hash of the model as text.

Exit codes: 0 done, 1 failed, 2 the command line was wrong, 130 cancelled by
Ctrl-C.
Environment: SEPIA_MODEL (default of --model), SEPIA_CACHE (default of --cache).`

const inspectHelp = `
Examples:
  sepia inspect sd_xl_base_1.0.safetensors
  sepia inspect models/pocket --json

The hash does not depend on the layout: a single file and a folder with the same
weights have the same one.`

const cacheHelp = 'prepared weights and hashes (default: $SEPIA_CACHE, else sepia in your cache folder)'

/** Exit codes: bad usage is told apart, as shells do; a cancelled command ends like one ended by Ctrl-C. */
export const exitCodes = { ok: 0, failure: 1, usage: 2, cancelled: 130 } as const

const usageErrors: ReadonlySet<ErrorCode> = new Set(['bad_argument', 'bad_prompt', 'bad_size'])

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

  program
    .command('generate')
    .summary('make pictures from a prompt')
    .description('Make pictures from a prompt and save them. Prints one line a picture: file, seed, time.')
    .argument('<prompt>', 'what the picture shows; (words:1.3) counts more, (words:0.7) less')
    .option(
      '-m, --model <path>',
      'SDXL model: a .safetensors file or a diffusers folder (default: $SEPIA_MODEL, else pocket)',
    )
    .option('-n, --negative <prompt>', 'what it does not show; "" differs from leaving it out')
    .option('--prompt-2 <prompt>', 'another prompt for the second text encoder (default: the prompt)')
    .option('--negative-2 <prompt>', 'the same for --negative')
    .option('-s, --seed <number>', '0 to 4294967295; the same seed makes the same picture (default: random, printed)')
    .addOption(withDefault('--steps <number>', 'denoising steps, 1 to 200', '30'))
    .addOption(withDefault('--cfg <number>', 'how strictly the prompt is followed, above 0 up to 50', '12'))
    .addOption(withDefault('--sampler <name>', `one of ${samplerNames.join(', ')}`, 'DDIM'))
    .addOption(withDefault('--width <pixels>', "8 to 4096, a multiple of the model's factor, mostly 8", '1024'))
    .addOption(withDefault('--height <pixels>', 'likewise', '1024'))
    .addOption(withDefault('--num <number>', 'pictures, 1 to 16, with the seeds seed, seed+1, …', '1'))
    .option('--clip-skip <number>', 'leave out the last 1 to 12 layers of the text encoders')
    .option(
      '-o, --output <path>',
      '.png or .jpg file (-1, -2, … with --num) or a folder that is there (default: sepia-<seed>.png here)',
    )
    .addOption(withDefault('--precision <name>', 'arithmetic of the networks, fp32 or fp16', 'fp32'))
    .addOption(withDefault('--device <name>', 'cpu, cuda or webgpu; sepia doctor tells which work', 'cpu'))
    .option('--threads <number>', 'of the CPU, up to its usable cores (default: all of them)')
    .option('--cache <folder>', cacheHelp)
    .option('--cache-limit <size>', 'what the cache may grow to, such as 40GB (default: 64GiB)')
    .option('--json', 'print one JSON object on stdout instead: {images, modelHash, timings, warnings} or {error}')
    .option('--verbose', "tell each phase and show the engine's own messages, on stderr")
    .addHelpText('after', generateHelp)
    .action((prompt: string, options: GenerateOptions) => generate(prompt, options, config(), terminal))

  program
    .command('inspect')
    .summary('tell what a model file is')
    .description('Tell what a model file or folder is: architecture, parts, precision, sizes, hash, what is missing.')
    .argument('<path>', 'a .safetensors file or a diffusers folder')
    .option('--cache <folder>', cacheHelp)
    .option('--json', 'print one JSON object on stdout instead')
    .addHelpText('after', inspectHelp)
    .action((path: string, options: InspectOptions) => inspect(path, options, config(), terminal))

  program
    .command('doctor')
    .summary('tell what this machine offers')
    .description('Tell what this machine offers: Node, cores, instruction sets, memory, cache, and which devices work.')
    .option('--cache <folder>', cacheHelp)
    .option('--json', 'print one JSON object on stdout instead')
    .action((options: DoctorOptions) => doctor(options, config(), terminal))

  return program
}

/** An option whose default --help shows without quotes. */
function withDefault(flags: string, description: string, value: string): Option {
  return new Option(flags, description).default(value, value)
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
