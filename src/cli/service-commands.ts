// The commands of the service, as commander knows them: options and help.
import type { Command } from 'commander'
import type { CommandContext } from './command-options.ts'
import { cacheHelp } from './command-options.ts'
import type { ServeOptions, WorkerOptions } from './service-options.ts'

const serveHelp = `
Every option may also be set by a variable: --public-url by SEPIA_PUBLIC_URL,
--no-auth by SEPIA_NO_AUTH=1, and so on. What is typed goes first.

One machine (the default): the database and all files lie in --data.
Several: DATABASE_URL names a PostgreSQL server, SEPIA_S3_BUCKET,
SEPIA_S3_ENDPOINT, SEPIA_S3_REGION, SEPIA_S3_ACCESS_KEY_ID and
SEPIA_S3_SECRET_ACCESS_KEY a bucket; then any number of "sepia serve --role api"
and "sepia worker" share the work.

--public-assets: FOLDER/lora/NAME.safetensors is octoai:NAME for every account;
likewise checkpoint, textual_inversion and vae. The folder is looked through at
each start. SEPIA_ASSET_URLS=yes and SEPIA_ASSET_HUB=yes let accounts name URLs
and Hugging Face repositories, which the server then fetches.

SEPIA_TOKEN sets the token of the first account, which is made and printed
otherwise; SEPIA_METRICS_TOKEN the one that /metrics asks for.

SIGTERM or Ctrl-C: no new work is taken, what runs may end within --grace, the
rest goes back to the queue. A second one ends at once.

Examples:
  sepia serve
  sepia serve --model sd_xl_base_1.0.safetensors --refiner refiner.safetensors \\
    --host 0.0.0.0 --public-url https://pictures.example
  SEPIA_TOKEN=sepia_… sepia serve --data /srv/sepia --engines 2`

const workerHelp = `
Set DATABASE_URL and SEPIA_S3_BUCKET as for "sepia serve --role api". A worker
takes requests for its own model and precision only. One that dies or cannot
reach the database loses what it has to the others within half a minute.

Every option may also be set by a variable, as for "sepia serve".

Example:
  DATABASE_URL=postgres://… SEPIA_S3_BUCKET=sepia sepia worker --engines 2`

/** Add the options that serve and worker share. */
export function addOfficeOptions(command: Command): Command {
  return command
    .option('--data <folder>', "the service's own folder (default: $SEPIA_DATA, else sepia in your data folder)")
    .option('-m, --model <path>', 'SDXL model: a .safetensors file or a diffusers folder (default: pocket)')
    .option('--refiner <path>', 'SDXL refiner; without one use_refiner is not applied (default: none)')
    .option('--engines <number>', 'pictures that are made at once, each in a process of its own (default: 1)')
    .option('--threads <number>', 'of the CPU for each engine (default: its share of the cores)')
    .option('--device <name>', 'cpu, cuda or webgpu (default: cpu)')
    .option('--precision <name>', 'auto, fp32, bf16, int8 or fp16; see sepia doctor (default: auto)')
    .option('--backend <name>', 'auto, onnxruntime or openvino (default: auto)')
    .option('--memory-limit <size>', 'private memory of all engines together, such as 40GB (default: none)')
    .option('--cache <folder>', cacheHelp)
    .option('--cache-limit <size>', 'what the cache may grow to, such as 40GB (default: 64GiB)')
    .option('--grace <seconds>', 'what may still run when the service ends (default: 30)')
    .option('--log-level <name>', 'debug, info, warn, error or silent; the log goes to stderr (default: info)')
}

/** Add the commands that run the service. Its libraries are loaded when one of them runs: other commands need not wait. */
export function addServiceCommands(program: Command, { terminal, config }: CommandContext): void {
  const serveCommand = program
    .command('serve')
    .summary('answer the HTTP API')
    .description("Answer the HTTP API of OctoAI's media generation service with pictures made on this machine.")
    .option('--host <address>', 'address to listen at; 0.0.0.0 is all of them (default: 127.0.0.1)')
    .option('--port <number>', '0 takes a free one (default: 8000)')
    .option('--public-url <url>', 'origin of the URLs in answers (default: what the request says)')
    .option('--role <name>', 'all, or api: pictures are made by workers elsewhere (default: all)')
    .option('--no-auth', 'ask for no tokens; on a loopback address only')
    .option('--cors <origins...>', "browsers' origins that may use the API (default: none)")
    .option('--max-queue <number>', 'requests that may wait (default: 1000)')
    .option('--price-list <file>', 'prices as JSON, in place of the built-in ones')
    .option('--word-list <file>', 'words that no prompt may have, one a line')
    .option('--public-assets <folder>', 'files for the public library, in folders by type (default: none)')
  addOfficeOptions(serveCommand)
    .addHelpText('after', serveHelp)
    .action(async (options: ServeOptions) => (await import('./serve.ts')).serve(options, config(), terminal))

  const workerCommand = program
    .command('worker')
    .summary('make pictures for servers elsewhere')
    .description('Make the pictures of requests that "sepia serve --role api" accepted on any machine.')
    .option('--metrics-port <number>', 'answer /metrics there; 0 takes a free one (default: nowhere)')
    .option('--host <address>', 'address of --metrics-port (default: 127.0.0.1)')
  addOfficeOptions(workerCommand)
    .addHelpText('after', workerHelp)
    .action(async (options: WorkerOptions) => (await import('./worker.ts')).work(options, config(), terminal))
}
