// The commands about pictures, as commander knows them: options and help.
import type { Command } from 'commander'
import { samplerNames } from '#diffusion/samplers.ts'
import { cacheHelp, optionWithDefault, type CommandContext } from './command-options.ts'
import { generate } from './generate.ts'
import type { GenerateOptions } from './generate-options.ts'

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

/** Add the commands that make pictures or tell what they can be made with. */
export function addPictureCommands(program: Command, { terminal, config }: CommandContext): void {
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
    .addOption(optionWithDefault('--steps <number>', 'denoising steps, 1 to 200', '30'))
    .addOption(optionWithDefault('--cfg <number>', 'how strictly the prompt is followed, above 0 up to 50', '12'))
    .addOption(optionWithDefault('--sampler <name>', `one of ${samplerNames.join(', ')}`, 'DDIM'))
    .addOption(optionWithDefault('--width <pixels>', "8 to 4096, a multiple of the model's factor, mostly 8", '1024'))
    .addOption(optionWithDefault('--height <pixels>', 'likewise', '1024'))
    .addOption(optionWithDefault('--num <number>', 'pictures, 1 to 16, with the seeds seed, seed+1, …', '1'))
    .option('--clip-skip <number>', 'leave out the last 1 to 12 layers of the text encoders')
    .option(
      '-o, --output <path>',
      '.png or .jpg file (-1, -2, … with --num) or a folder that is there (default: sepia-<seed>.png here)',
    )
    .addOption(optionWithDefault('--precision <name>', 'arithmetic of the networks, fp32 or fp16', 'fp32'))
    .addOption(optionWithDefault('--device <name>', 'cpu, cuda or webgpu; sepia doctor tells which work', 'cpu'))
    .option('--threads <number>', 'of the CPU, up to its usable cores (default: all of them)')
    .option('--cache <folder>', cacheHelp)
    .option('--cache-limit <size>', 'what the cache may grow to, such as 40GB (default: 64GiB)')
    .option('--json', 'print one JSON object on stdout instead: {images, modelHash, timings, warnings} or {error}')
    .option('--verbose', "tell each phase and show the engine's own messages, on stderr")
    .addHelpText('after', generateHelp)
    .action((prompt: string, options: GenerateOptions) => generate(prompt, options, config(), terminal))
}
