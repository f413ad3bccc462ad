// `sepia tokens`: the secrets that stand for accounts.
import type { TokenEntry } from '#service/admin/admin-command.ts'
import type { Config } from '../config.ts'
import { withAdministrator, type AdministrationOptions } from './administration.ts'
import { print, table } from './answer.ts'
import type { Terminal } from './terminal.ts'

/** Options of `sepia tokens create`, as typed. */
export type TokenOptions = AdministrationOptions & { readonly account: string; readonly name: string }

/** Options of `sepia tokens list`, as typed. */
export type TokenListOptions = AdministrationOptions & { readonly account?: string }

/** Make a token and print it, the only time that it is shown. */
export async function createToken(options: TokenOptions, config: Config, terminal: Terminal): Promise<void> {
  const { account, name } = options
  const made = await withAdministrator(options, config, (ask) => ask({ command: 'createToken', account, name }))
  // Alone on its line, so that a script can take it.
  print(terminal, options.json, made, () => made.token)
}

/** Print tokens, without anything that could be used. */
export async function listTokens(options: TokenListOptions, config: Config, terminal: Terminal): Promise<void> {
  const account = options.account ?? null
  const tokens = await withAdministrator(options, config, (ask) => ask({ command: 'listTokens', account }))
  print(terminal, options.json, { tokens }, () => renderTokens(tokens))
}

/** Revoke a token and print it. */
export async function revokeToken(
  token: string,
  options: AdministrationOptions,
  config: Config,
  terminal: Terminal,
): Promise<void> {
  const revoked = await withAdministrator(options, config, (ask) => ask({ command: 'revokeToken', token }))
  print(terminal, options.json, revoked, () => renderTokens([revoked]))
}

function renderTokens(tokens: readonly TokenEntry[]): string {
  return table(
    ['ID', 'ACCOUNT', 'NAME', 'PREFIX', 'CREATED', 'REVOKED'],
    tokens.map(({ id, account, name, prefix, createdAt, revokedAt }) => [
      id,
      account,
      name,
      prefix,
      createdAt,
      revokedAt ?? 'no',
    ]),
  )
}
