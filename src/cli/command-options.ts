// What the groups of commands share.
import { Option } from 'commander'
import type { Config } from '../config.ts'
import type { Terminal } from './terminal.ts'

/** What every command gets. The configuration is asked for when a command runs, so that help works without one. */
export type CommandContext = { readonly terminal: Terminal; readonly config: () => Config }

/** Help of --cache, which all commands that start an engine have. */
export const cacheHelp = 'prepared weights and hashes (default: $SEPIA_CACHE, else sepia in your cache folder)'

/** An option whose default --help shows without quotes. */
export function optionWithDefault(flags: string, description: string, value: string): Option {
  return new Option(flags, description).default(value, value)
}
