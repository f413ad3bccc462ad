// The commands about engines, as commander knows them: options and help.
import type { Command } from 'commander'
import {
  installBackend,
  listBackends,
  removeBackend,
  type BackendOptions,
  type InstallBackendOptions,
} from './backend.ts'
import type { CommandContext } from './command-options.ts'

const dataHelp = 'where it is kept (default: $SEPIA_DATA, else sepia in your data folder)'
const jsonHelp = 'print one JSON object on stdout instead'

const installHelp = `
pip fetches one file from PyPI, whose SHA-256 is checked; nothing of Python is used
afterwards. Another OpenVINO of the same release is found too: in the folder of
SEPIA_OPENVINO, in a Python environment, among the system's libraries.

Examples:
  sepia backend install openvino
  sepia backend install openvino --wheel openvino-2026.4.1-….whl`

/** Add the commands that fetch, list and remove engines. */
export function addBackendCommands(program: Command, { terminal, config }: CommandContext): void {
  const backend = program
    .command('backend')
    .summary('fetch, list and remove engines')
    .description('Fetch, list and remove the engines that pictures are computed with.')

  backend
    .command('install')
    .summary('fetch an engine')
    .description('Fetch OpenVINO, which computes in bf16 on CPUs that have it: twice as fast as fp32.')
    .argument('<name>', 'openvino')
    .option('--wheel <file>', 'the file, where it was fetched by hand')
    .option('--data <folder>', dataHelp)
    .option('--json', jsonHelp)
    .addHelpText('after', installHelp)
    .action((name: string, options: InstallBackendOptions) => installBackend(name, options, config(), terminal))

  backend
    .command('list')
    .summary('list the engines')
    .description('List the engines that are found; sepia doctor tells whether they work.')
    .option('--data <folder>', dataHelp)
    .option('--json', jsonHelp)
    .action((options: BackendOptions) => listBackends(options, config(), terminal))

  backend
    .command('remove')
    .summary('remove an engine')
    .description('Remove an engine that was fetched.')
    .argument('<name>', 'openvino')
    .option('--data <folder>', dataHelp)
    .option('--json', jsonHelp)
    .action((name: string, options: BackendOptions) => removeBackend(name, options, config(), terminal))
}
