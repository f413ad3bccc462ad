// `sepia accounts`: who may use the server, how much, and what for.
import type { AccountEntry } from '#service/admin/admin-command.ts'
import { dollars } from '#service/billing/ledger.ts'
import type { Config } from '../config.ts'
import { AppError } from '../errors.ts'
import { withAdministrator, type AdministrationOptions } from './administration.ts'
import { print, table } from './answer.ts'
import { wholeNumber } from './option-values.ts'
import type { Terminal } from './terminal.ts'

/** Limits as typed: a number, or `none`. */
export type LimitOptions = AdministrationOptions & {
  readonly requestsPerMinute?: string
  readonly running?: string
  readonly queued?: string
  readonly prepaid?: boolean
}

/** Options of `sepia accounts credit`, as typed. */
export type CreditOptions = AdministrationOptions & { readonly reference?: string }

type Limits = Partial<Pick<AccountEntry, 'requestsPerMinute' | 'maxRunningJobs' | 'maxQueuedJobs' | 'prepaid'>>

/** Make an account and print it. */
export async function createAccount(
  name: string,
  options: LimitOptions,
  config: Config,
  terminal: Terminal,
): Promise<void> {
  const limits = limitsOf(options)
  const made = await withAdministrator(options, config, (ask) => ask({ command: 'createAccount', name, ...limits }))
  print(terminal, options.json, made, () => renderAccounts([made]))
}

/** Print all accounts. */
export async function listAccounts(options: AdministrationOptions, config: Config, terminal: Terminal): Promise<void> {
  const accounts = await withAdministrator(options, config, (ask) => ask({ command: 'listAccounts' }))
  print(terminal, options.json, { accounts }, () => renderAccounts(accounts))
}

/** Set limits and print the account. */
export async function limitAccount(
  account: string,
  options: LimitOptions,
  config: Config,
  terminal: Terminal,
): Promise<void> {
  const limits = limitsOf(options)
  if (Object.keys(limits).length === 0)
    throw new AppError(
      'bad_argument',
      'give at least one of --requests-per-minute, --running, --queued, --prepaid, --no-prepaid',
    )
  const changed = await withAdministrator(options, config, (ask) =>
    ask({ command: 'limitAccount', account, ...limits }),
  )
  print(terminal, options.json, changed, () => renderAccounts([changed]))
}

/** Add credit and print the account. */
export async function creditAccount(
  account: string,
  amount: string,
  options: CreditOptions,
  config: Config,
  terminal: Terminal,
): Promise<void> {
  const amountMicros = microsOf(amount).toString()
  const reference = options.reference ?? null
  const credited = await withAdministrator(options, config, (ask) =>
    ask({ command: 'creditAccount', account, amountMicros, reference }),
  )
  print(terminal, options.json, credited, () => renderAccounts([credited]))
}

/** Dollars as typed, such as 12.50, in micro-dollars. Throws `bad_argument`. */
export function microsOf(text: string): bigint {
  const match = /^\$?(\d{1,12})(?:\.(\d{1,6}))?$/.exec(text)
  if (!match) throw new AppError('bad_argument', `amount must be dollars such as 12.50, got "${text}"`)
  return BigInt(match[1]) * 1_000_000n + BigInt((match[2] ?? '').padEnd(6, '0'))
}

function limitsOf({ requestsPerMinute, running, queued, prepaid }: LimitOptions): Limits {
  const limit = (name: string, text: string): number | null =>
    text === 'none' ? null : wholeNumber(name, text, 0, 2 ** 31 - 1)
  return {
    ...(requestsPerMinute !== undefined && {
      requestsPerMinute: limit('--requests-per-minute', requestsPerMinute),
    }),
    ...(running !== undefined && { maxRunningJobs: limit('--running', running) }),
    ...(queued !== undefined && { maxQueuedJobs: limit('--queued', queued) }),
    ...(prepaid !== undefined && { prepaid }),
  }
}

function renderAccounts(accounts: readonly AccountEntry[]): string {
  const limit = (value: number | null): string => (value === null ? 'none' : `${value}`)
  return table(
    ['ID', 'NAME', 'BALANCE', 'HELD', 'SPENT', 'PREPAID', 'REQUESTS/MIN', 'RUNNING', 'QUEUED'],
    accounts.map((account) => [
      account.id,
      account.name,
      dollars(BigInt(account.balanceMicros)),
      dollars(BigInt(account.heldMicros)),
      dollars(BigInt(account.spentMicros)),
      account.prepaid ? 'yes' : 'no',
      limit(account.requestsPerMinute),
      limit(account.maxRunningJobs),
      limit(account.maxQueuedJobs),
    ]),
  )
}
