import { createHash } from 'node:crypto'
import type { PoolClient } from 'pg'

/** More texts than the service has; what comes beyond is planned at each use. */
const mostStatements = 500

/** One statement that reads or changes rows; pg-boss writes the names of queues into its texts instead of parameters. */
const oneStatement = /^\s*(select|with|insert|update|delete)\b[^;]*$/i

/**
 * From now on prepare every statement that goes through `client` and is likely to come again: where statements are short,
 * planning them is most of the work. Those without parameters are prepared when they come a second time.
 */
export function prepareStatements(client: PoolClient): void {
  const names = new Map<string, string>()
  const seenOnce = new Set<string>()
  const query = client.query.bind(client) as (config: unknown, values: unknown, callback: unknown) => unknown
  const prepared = (config: unknown, values: unknown, callback: unknown): unknown => {
    const options = typeof config === 'string' ? { text: config } : config
    if (!hasText(options)) return query(config, values, callback)
    const { text } = options
    const hasParameters = Array.isArray(values) && values.length > 0
    if (!hasParameters && !names.has(text) && !comesAgain(seenOnce, text)) return query(config, values, callback)
    if (!names.has(text) && names.size < mostStatements) names.set(text, nameOf(text))
    return query({ ...options, name: names.get(text) }, values, callback)
  }
  client.query = prepared as PoolClient['query']
}

function comesAgain(seenOnce: Set<string>, text: string): boolean {
  if (!oneStatement.test(text)) return false
  if (seenOnce.delete(text)) return true
  if (seenOnce.size >= mostStatements) seenOnce.clear()
  seenOnce.add(text)
  return false
}

/** The same in every client, for a session can outlast one. */
function nameOf(text: string): string {
  return createHash('sha256').update(text).digest('base64url')
}

function hasText(value: unknown): value is { readonly text: string } {
  return typeof value === 'object' && value !== null && 'text' in value && typeof value.text === 'string'
}
