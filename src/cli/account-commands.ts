// The commands about accounts and tokens, as commander knows them: options and help.
import type { Command } from 'commander'
import type { CreditOptions, LimitOptions } from './accounts.ts'
import type { AdministrationOptions } from './administration.ts'
import { optionWithDefault, type CommandContext } from './command-options.ts'
import type { TokenListOptions, TokenOptions } from './tokens.ts'

// The commands themselves bring the database's libraries, which other commands need not wait for.
const accountsFile = () => import('./accounts.ts')
const tokensFile = () => import('./tokens.ts')

const placeHelp = `
Beside a running server the command goes through a socket in its data folder;
with none running it opens the folder, or the database at DATABASE_URL.
Environment: SEPIA_DATA (default of --data), DATABASE_URL.`

const tokensHelp = `
Examples:
  sepia tokens create --account ann --name laptop
  sepia tokens list
  sepia tokens revoke sepia_Ab3xY9
${placeHelp}`

const accountsHelp = `
Examples:
  sepia accounts create ann --requests-per-minute 60 --prepaid
  sepia accounts credit ann 12.50 --reference invoice-7
  sepia accounts limit ann --running 2 --queued 100
  sepia accounts list
${placeHelp}`

/** Add `sepia accounts` and `sepia tokens`. */
export function addAccountCommands(program: Command, context: CommandContext): void {
  addAccounts(program, context)
  addTokens(program, context)
}

function addAccounts(program: Command, { terminal, config }: CommandContext): void {
  const accounts = program
    .command('accounts')
    .summary('who may use the server, and how much')
    .description('Make accounts, list them, set their limits, add credit.')
    .addHelpText('after', accountsHelp)

  withLimits(withPlace(accounts.command('create')))
    .summary('make an account')
    .description('Make an account. Limits that are not given are none.')
    .argument('<name>', 'letters, digits and . _ @ -, up to 64')
    .action(async (name: string, options: LimitOptions) =>
      (await accountsFile()).createAccount(name, options, config(), terminal),
    )

  withPlace(accounts.command('list'))
    .summary('list accounts')
    .description('List accounts with their balance, what is held for jobs, what is spent, and their limits.')
    .action(async (options: AdministrationOptions) => (await accountsFile()).listAccounts(options, config(), terminal))

  withPlace(accounts.command('credit'))
    .summary('add credit')
    .description('Add credit to an account, in dollars.')
    .argument('<account>', 'id or name')
    .argument('<amount>', 'dollars, such as 12.50')
    .option('--reference <text>', 'counts once, such as an invoice’s number (default: a new one)')
    .action(async (account: string, amount: string, options: CreditOptions) =>
      (await accountsFile()).creditAccount(account, amount, options, config(), terminal),
    )

  withLimits(withPlace(accounts.command('limit')))
    .summary('set limits')
    .description('Set those limits of an account that are given.')
    .argument('<account>', 'id or name')
    .action(async (account: string, options: LimitOptions) =>
      (await accountsFile()).limitAccount(account, options, config(), terminal),
    )
}

function addTokens(program: Command, { terminal, config }: CommandContext): void {
  const tokens = program
    .command('tokens')
    .summary('the secrets that stand for accounts')
    .description('Make, list and revoke the tokens that clients send.')
    .addHelpText('after', tokensHelp)

  withPlace(tokens.command('create'))
    .summary('make a token')
    .description('Make a token and print it. It is shown this once; the server keeps its hash.')
    .addOption(optionWithDefault('--account <account>', 'id or name', 'default'))
    .addOption(optionWithDefault('--name <text>', 'what it is for', 'unnamed'))
    .action(async (options: TokenOptions) => (await tokensFile()).createToken(options, config(), terminal))

  withPlace(tokens.command('list'))
    .summary('list tokens')
    .description('List tokens by id and prefix, revoked ones too.')
    .option('--account <account>', 'only those of this account, id or name')
    .action(async (options: TokenListOptions) => (await tokensFile()).listTokens(options, config(), terminal))

  withPlace(tokens.command('revoke'))
    .summary('revoke a token')
    .description('Revoke a token: from now on it stands for nobody.')
    .argument('<token>', 'id, or a prefix that only one token has')
    .action(async (token: string, options: AdministrationOptions) =>
      (await tokensFile()).revokeToken(token, options, config(), terminal),
    )
}

function withPlace(command: Command): Command {
  return command
    .option('--data <folder>', 'the server’s data folder (default: $SEPIA_DATA, else sepia among your programs’ data)')
    .option('--json', 'print one JSON object on stdout instead')
}

function withLimits(command: Command): Command {
  return command
    .option('--requests-per-minute <n>', 'requests for pictures a minute, or none')
    .option('--running <n>', 'jobs that run at once, or none')
    .option('--queued <n>', 'jobs that wait, or none')
    .option('--prepaid', 'accept only what the balance covers')
    .option('--no-prepaid', 'count only')
}
