// The commands about models and assets, as commander knows them: options and help.
import { Option, type Command } from 'commander'
import type { AddOptions, OwnerOptions } from './assets.ts'
import { cacheHelp, type CommandContext } from './command-options.ts'
import type { ModelsOptions, PullOptions } from './models.ts'

// The commands themselves bring the database's libraries, which other commands need not wait for.
const assetsFile = () => import('./assets.ts')
const modelsFile = () => import('./models.ts')

const modelsHelp = `
Examples:
  sepia models pull stabilityai/stable-diffusion-xl-base-1.0 --variant fp16
  sepia models pull hf:OWNER/REPO@v1.1 --file model.safetensors --name mine
  sepia generate "a lighthouse" --model mine

A diffusers repository becomes a folder of what is read of it, another one its
only file of weights, or the one that --file names. What was cut off goes on
where it ended, and every large file is checked against its hash. Read the
licence of what you fetch: it is the author's, not ours.
Environment: SEPIA_DATA (default of --data), HF_TOKEN (for what needs one),
SEPIA_ASSET_HUB (another hub's origin).`

const assetsHelp = `
Examples:
  sepia assets add crayon.safetensors --type lora
  sepia assets add https://example.com/soft.safetensors --type vae --name soft
  sepia assets add hf:OWNER/REPO:old.pt --type textual_inversion --public
  sepia assets show crayon
  sepia generate "a cat" --lora crayon:0.8

A file is looked into before it is taken: what could not be applied whole is
refused with its reason. --public puts it into the library of all accounts, as
octoai:NAME. Beside a running server the commands go through a socket in its
data folder; with none running they open the folder, or the database at
DATABASE_URL.
Environment: SEPIA_DATA (default of --data), DATABASE_URL, HF_TOKEN.`

/** Add `sepia models` and `sepia assets`. */
export function addLibraryCommands(program: Command, context: CommandContext): void {
  addModels(program, context)
  addAssets(program, context)
}

function addModels(program: Command, { terminal, config }: CommandContext): void {
  const models = program
    .command('models')
    .summary('models of the Hugging Face hub')
    .description('Fetch models, and list those that were fetched.')
    .addHelpText('after', modelsHelp)

  withData(models.command('pull'))
    .summary('fetch a model')
    .description('Fetch a model into the data folder, where --model NAME finds it.')
    .argument('<repo>', 'OWNER/REPO, hf:OWNER/REPO, OWNER/REPO@REVISION or OWNER/REPO:FILE')
    .option('--file <path>', 'only this file of the repository')
    .option('--variant <name>', 'such as fp16: model.fp16.safetensors instead of model.safetensors')
    .option('--name <name>', "letters, digits, _ and - (default: the repository's or the file's)")
    .action(async (repo: string, options: PullOptions) =>
      (await modelsFile()).pullModel(repo, options, config(), terminal),
    )

  withData(models.command('list'))
    .summary('list models')
    .description('List the models that were fetched.')
    .action(async (options: ModelsOptions) => (await modelsFile()).listModels(options, config(), terminal))
}

function addAssets(program: Command, { terminal, config }: CommandContext): void {
  const assets = program
    .command('assets')
    .summary('the library of custom files')
    .description('Add checkpoints, LoRAs, textual inversions and VAEs to the library, list, show, remove, export them.')
    .addHelpText('after', assetsHelp)

  withOwner(assets.command('add'))
    .summary('add a file')
    .description('Look into a file and add it.')
    .argument('<source>', 'a file, https://… or hf:OWNER/REPO[@REVISION][:FILE]')
    .requiredOption('--type <type>', 'checkpoint, lora, textual_inversion, vae or file')
    .option('--name <name>', "letters, digits, _ and - (default: the file's)")
    .option('--description <text>', 'for people')
    .action(async (source: string, options: AddOptions) =>
      (await assetsFile()).addAsset(source, options, config(), terminal),
    )

  withOwner(assets.command('list'))
    .summary('list assets')
    .description('List the assets of an account, or with --public those of the public library.')
    .action(async (options: OwnerOptions) => (await assetsFile()).listAssets(options, config(), terminal))

  withOwner(assets.command('show'))
    .summary('tell what an asset is')
    .description('Tell what an asset is: what it was found to be, its size, its trigger words.')
    .argument('<asset>', 'id or name')
    .action(async (asset: string, options: OwnerOptions) =>
      (await assetsFile()).showAsset(asset, options, config(), terminal),
    )

  withOwner(assets.command('remove'))
    .summary('delete an asset')
    .description('Delete an asset. Requests that were accepted before still get it.')
    .argument('<asset>', 'id or name')
    .action(async (asset: string, options: OwnerOptions) =>
      (await assetsFile()).removeAsset(asset, options, config(), terminal),
    )

  withOwner(assets.command('export'))
    .summary('copy an asset out')
    .description("Copy an asset's file out of the library. An existing file is never replaced.")
    .argument('<asset>', 'id or name')
    .argument('[file]', 'where to (default: NAME.safetensors here)')
    .action(async (asset: string, file: string | undefined, options: OwnerOptions) =>
      (await assetsFile()).exportAsset(asset, file, options, config(), terminal),
    )
}

function withData(command: Command): Command {
  return command
    .option('--data <folder>', "the service's own folder (default: $SEPIA_DATA, else sepia in your data folder)")
    .option('--json', 'print one JSON object on stdout instead')
}

function withOwner(command: Command): Command {
  return withData(command)
    .addOption(new Option('--account <account>', 'whose library, id or name (default: default)'))
    .option('--public', 'the library of all accounts')
    .option('-m, --model <path>', 'what assets have to fit, where no server runs (default: $SEPIA_MODEL, else pocket)')
    .option('--cache <folder>', cacheHelp)
}
