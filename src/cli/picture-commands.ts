// The commands about pictures, as commander knows them: options and help.
import type { Command } from 'commander'
import { samplerNames } from '#diffusion/samplers.ts'
import { cacheHelp, optionWithDefault, type CommandContext } from './command-options.ts'
import { concepts, type ConceptsOptions } from './concepts.ts'
import { generate } from './generate.ts'
import type { GenerateOptions } from './generate-options.ts'
import { samplers, type SamplersOptions } from './samplers.ts'
import { styles, type StylesOptions } from './styles.ts'

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
  A picture to begin with; the part of it that a mask shows in white:
    sepia generate "a snowy street" --init-image street.jpg --strength 0.6
    sepia generate "a red door" --init-image house.png --mask door.png
  256 pixels more on the left and on the right:
    sepia generate "a quiet harbour" --init-image a.png --outpaint 256,0,256,0
  For a script:
    sepia generate "a red apple" --json | jq -r '.images[].path'

Prompts:
  (word) counts 1.1 times, ((word)) 1.21 times, (word:0.6) 0.6 times; write
  \\( and \\) for brackets themselves. Up to 10000 characters, and up to 600
  tokens (a short word is one); nothing is cut off. A prompt that begins with
  a dash goes after two dashes: sepia generate -- "-40 degrees".

Starting pictures:
  JPEG, PNG or WebP of up to 4096x4096 pixels. Without --width and --height the
  result has the picture's size, each side to the nearest multiple of 64, and at
  most two megapixels; with one of them, the other follows the picture's shape.
  A picture or mask of another size is scaled to the result's. A mask is white
  where to paint; elsewhere the result has the picture's own pixels, but for a
  narrow seam. --full-res paints the mask's surroundings enlarged to the whole
  size. --outpaint keeps the picture as it is; the new sides grow or shrink
  by up to 63 pixels so that the result's are multiples of 64. An axis without a
  new side, or a result above two megapixels, is scaled instead.

Own files:
  --lora, --ti, --vae and --model take a file or a name. Names are those of
  "sepia models pull", of "sepia assets add", and of the examples that ship with
  Sepia (octoai:NAME is the public library alone):
    sepia generate "a blueprint of a star" --lora pocket-blueprint:0.9
    sepia generate "a star, oldphoto" --ti pocket-sepia=oldphoto
  A LoRA's weight is -100 to 100; one of 0 changes nothing. What cannot be
  applied completely is refused with the list of what does not fit. An
  inversion's word may have a weight in brackets, and works in --negative too.

Pictures:
  A picture appears under its name only when it is complete. An existing file
  named by --output is replaced; a name chosen by sepia never is. Ctrl-C ends
  at once and leaves nothing behind. A PNG carries its prompt, seed, sampler
  and the hash of the model as text.

Exit codes: 0 done, 1 failed, 2 the command line was wrong, 130 cancelled by
Ctrl-C.
Environment: SEPIA_MODEL (default of --model), SEPIA_REFINER (default of
--refiner), SEPIA_CACHE (default of --cache), SEPIA_DATA (default of --data).`

const collect = (value: string, before: readonly string[] = []): readonly string[] => [...before, value]

/** Add the commands that make pictures or tell what they can be made with. */
export function addPictureCommands(program: Command, { terminal, config }: CommandContext): void {
  program
    .command('generate')
    .summary('make pictures from a prompt')
    .description('Make pictures from a prompt and save them. Prints one line a picture: file, seed, time.')
    .argument('<prompt>', 'what the picture shows; (words:1.3) counts more, (words:0.7) less')
    .option(
      '-m, --model <path>',
      'SDXL model: a .safetensors file, a diffusers folder or a name (default: $SEPIA_MODEL, else pocket)',
    )
    .option('--lora <file:weight>', 'apply a LoRA, a file or a name; again for more (default weight: 1)', collect)
    .option('--ti <file=word>', 'let the word stand for a textual inversion, a file or a name; again for more', collect)
    .option('--vae <file>', "another VAE than the model's own, a file or a name")
    .option('--data <folder>', 'where names are looked up (default: $SEPIA_DATA, else sepia in your data folder)')
    .option('-n, --negative <prompt>', 'what it does not show; "" differs from leaving it out')
    .option('--prompt-2 <prompt>', 'another prompt for the second text encoder (default: the prompt)')
    .option('--negative-2 <prompt>', 'the same for --negative')
    .option(
      '-s, --seed <numbers>',
      '0 to 4294967295, or several with commas; the same seed makes the same picture (default: random, printed)',
    )
    .addOption(optionWithDefault('--steps <number>', 'denoising steps, 1 to 200 (LCM: 50)', '30'))
    .addOption(optionWithDefault('--cfg <number>', 'how strictly the prompt is followed, above 0 up to 50', '12'))
    .addOption(
      optionWithDefault('--sampler <name>', `one of the ${samplerNames.length} that sepia samplers lists`, 'DDIM'),
    )
    .option('--width <pixels>', "8 to 4096, a multiple of the model's factor, mostly 8 (default: 1024, or see below)")
    .option('--height <pixels>', 'likewise')
    .option('--num <number>', 'pictures, 1 to 16, with the seeds seed, seed+1, … (default: 1)')
    .option('--style <name>', 'a look for the picture; sepia styles lists them')
    .option('--init-image <file>', 'a picture to begin with')
    .option('--strength <number>', 'how much of it may change, above 0 up to 1 (default: 0.8)')
    .option('--mask <file>', 'paint only where this picture is white')
    .option('--full-res [padding]', "paint the mask's surroundings enlarged, with 32 or that many pixels of context")
    .option('--outpaint <sides>', 'extend the picture by LEFT,TOP,RIGHT,BOTTOM pixels')
    .option('--refiner <path>', 'SDXL refiner that does the last steps (default: $SEPIA_REFINER, else none)')
    .option('--no-refiner', 'none, whatever SEPIA_REFINER says')
    .option('--high-noise-frac <number>', 'part of the steps before the refiner, 0 to 1 (default: 0.8)')
    .option('--clip-skip <number>', 'leave out the last 1 to 12 layers of the text encoders')
    .option(
      '-o, --output <path>',
      '.png or .jpg file (-1, -2, … with --num) or a folder that is there (default: sepia-<seed>.png here)',
    )
    .option('--grid <file>', 'also save all pictures on one sheet, a .png or .jpg file')
    .option(
      '--precision <name>',
      'auto, fp32, bf16, int8 or fp16; see sepia doctor (default: $SEPIA_PRECISION, else auto)',
    )
    .option('--backend <name>', 'auto, onnxruntime or openvino; see sepia backend (default: $SEPIA_BACKEND, else auto)')
    .addOption(optionWithDefault('--device <name>', 'cpu, cuda or webgpu; sepia doctor tells which work', 'cpu'))
    .option('--threads <number>', 'of the CPU, up to its usable cores (default: all of them)')
    .option('--cache <folder>', cacheHelp)
    .option('--cache-limit <size>', 'what the cache may grow to, such as 40GB (default: 64GiB)')
    .option('--json', 'print one JSON object on stdout instead: {images, modelHash, timings, warnings, …} or {error}')
    .option('--verbose', "tell each phase and show the engine's own messages, on stderr")
    .addHelpText('after', generateHelp)
    .action((prompt: string, options: GenerateOptions) => generate(prompt, options, config(), terminal))

  program
    .command('styles')
    .summary('list the styles')
    .description('List the styles of sepia generate --style: the words round the prompt, and those to avoid.')
    .option('--json', 'print one JSON object on stdout instead')
    .action((options: StylesOptions) => styles(options, terminal))

  program
    .command('samplers')
    .summary('list the samplers')
    .description(
      'List the samplers of sepia generate --sampler: runs of the network a step, whether noise is drawn after the ' +
        'first one (fresh) or not, steps, price in the service, and the class of diffusers that computes the same.',
    )
    .option('--json', 'print one JSON object on stdout instead')
    .action((options: SamplersOptions) => samplers(options, terminal))

  program
    .command('concepts')
    .summary('list the things that pocket knows')
    .description(
      'List the things that a small model was trained on, such as the shipped one, with its styles and backgrounds. ' +
        'A prompt may say anything; these words it has seen.',
    )
    .argument('[word]', 'only those that have this in one of their names')
    .option('-m, --model <path>', 'a diffusers folder or a name (default: $SEPIA_MODEL, else pocket)')
    .option('--data <folder>', 'where names of models are looked up (default: $SEPIA_DATA)')
    .option('--json', 'print one JSON object on stdout instead: {concepts, styles, colours, places}')
    .action((word: string | undefined, options: ConceptsOptions) => concepts(word, options, config(), terminal))
}
