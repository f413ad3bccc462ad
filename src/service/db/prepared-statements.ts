import { createHash } from 'node:crypto'
import type { PoolClient } from 'pg'

/** More texts than the service has; what comes beyond is planned at each use. */
const mostStatements = 500

/**
 * From now on prepare every statement with parameters that goes through `client`, and use it again: where statements are
 * short, planning them is most of the work.
 */
export function prepareStatements(client: PoolClient): void {
  const names = new Map<string, string>()
  const query = client.query.bind(client) as (config: unknown, values: unknown, callback: unknown) => unknown
  const prepared = (config: unknown, values: unknown, callback: unknown): unknown => {
    const options = typeof config === 'string' ? { text: config } : config
    const hasParameters = Array.isArray(values) && values.length > 0
    if (!hasParameters || !hasText(options)) return query(config, values, callback)
    const { text } = options
    if (!names.has(text) && names.size < mostStatements) names.set(text, nameOf(text))
    return query({ ...options, name: names.get(text) }, values, callback)
  }
  client.query = prepared as PoolClient['query']
}

/** The same in every client, for a session can outlast one. */
function nameOf(text: string): string {
  return createHash('sha256').update(text).digest('base64url')
}

function hasText(value: unknown): value is { readonly text: string } {
  return typeof value === 'object' && value !== null && 'text' in value && typeof value.text === 'string'
}
