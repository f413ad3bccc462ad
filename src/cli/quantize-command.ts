// `sepia quantize`, as commander knows it: options and help.
import type { Command } from 'commander'
import { cacheHelp, optionWithDefault, type CommandContext } from './command-options.ts'
import { quantize, type QuantizeOptions } from './quantize.ts'

const quantizeHelp = `
Pictures of --precision int8 do the same by themselves, the first time. What comes out is
kept in the cache folder under the hash of the model's weights.

Examples:
  sepia quantize sd_xl_base_1.0.safetensors
  sepia quantize models/pocket --backend openvino --json`

/** Add `sepia quantize`. */
export function addQuantizeCommand(program: Command, { terminal, config }: CommandContext): void {
  program
    .command('quantize')
    .summary('make a model ready for int8')
    .description("Round a model's UNet to 8-bit integers, measure what that does to each layer, and tell it.")
    .argument('<model>', 'a .safetensors file, a diffusers folder, or the name of a pulled model')
    .option('--backend <name>', 'auto, onnxruntime or openvino; see sepia backend (default: $SEPIA_BACKEND, else auto)')
    .addOption(optionWithDefault('--device <name>', 'cpu', 'cpu'))
    .option('--threads <number>', 'of the CPU, up to its usable cores (default: all of them)')
    .option('--cache <folder>', cacheHelp)
    .option('--cache-limit <size>', 'what the cache may grow to, such as 40GB (default: 64GiB)')
    .option(
      '--data <folder>',
      'where pulled models and OpenVINO are kept (default: $SEPIA_DATA, else your data folder)',
    )
    .option('--json', 'print one JSON object on stdout instead, with every layer')
    .option('--verbose', "tell each phase and show the engine's own messages, on stderr")
    .addHelpText('after', quantizeHelp)
    .action((model: string, options: QuantizeOptions) => quantize(model, options, config(), terminal))
}
