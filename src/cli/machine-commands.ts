// The commands about models and this machine, as commander knows them: options and help.
import type { Command } from 'commander'
import { cacheHelp, type CommandContext } from './command-options.ts'
import { doctor, type DoctorOptions } from './doctor-command.ts'
import { inspect, type InspectOptions } from './inspect.ts'

const inspectHelp = `
Examples:
  sepia inspect sd_xl_base_1.0.safetensors
  sepia inspect models/pocket --json

The hash does not depend on the layout: a single file and a folder with the same
weights have the same one.`

/** Add the commands that tell what a model is and what this machine offers. */
export function addMachineCommands(program: Command, { terminal, config }: CommandContext): void {
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
    .description(
      'Tell what this machine offers: Node, cores, instruction sets, memory, cache, engines and devices, and what auto is.',
    )
    .option('--cache <folder>', cacheHelp)
    .option('--json', 'print one JSON object on stdout instead')
    .action((options: DoctorOptions) => doctor(options, config(), terminal))
}
