// `sepia serve`: the service until it is told to end.
import { once } from 'node:events'
import type { App, AppConfig } from '../app.ts'
import type { Config } from '../config.ts'
import { resolveServe, type ServeOptions } from './service-options.ts'
import type { Terminal } from './terminal.ts'

/** Run the service; returns when it has ended in peace. Throws what keeps it from starting. */
export async function serve(options: ServeOptions, config: Config, terminal: Terminal): Promise<void> {
  const resolved = resolveServe(options, config)
  const { signal, urgent, engineEntry } = terminal
  // Loaded now, so that a wrong option is refused without it.
  const { createApp } = await import('../app.ts')
  await using app = await createApp(resolved, { signal, urgent, engineEntry })
  terminal.stdout.write(greeting(app, resolved))
  if (!signal.aborted) await once(signal, 'abort')
}

/** What the operator sees: where the service is, and once how to use it. */
function greeting({ engine, url, firstToken }: App, { model, refiner, dataDir, databaseUrl, auth }: AppConfig): string {
  const lines = [
    `Sepia listens at ${url}, and explains itself at ${url}/docs`,
    `Model    ${model}`,
    ...(refiner === null ? [] : [`Refiner  ${refiner}`]),
    `Engine   ${engine.backend}, ${engine.precision}`,
    databaseUrl === null ? `Data     ${dataDir}` : 'Data     in the database of DATABASE_URL',
  ]
  if (!auth) lines.push('Nobody is asked for a token (--no-auth).', '', 'A picture:', ...curl(url, null))
  else if (firstToken) {
    lines.push('', 'The account "default" was made. Its token is shown this once:', '', `  ${firstToken}`)
    lines.push('', 'A picture:', ...curl(url, firstToken))
  }
  return `${lines.join('\n')}\n`
}

/** A line for the shell that makes a picture as it stands. */
function curl(url: string, token: string | null): string[] {
  const authorization = token === null ? '' : ` -H 'Authorization: Bearer ${token}'`
  const body = '{"prompt":"a red apple on a light blue background","use_refiner":false}'
  return [
    '',
    `  curl -sS ${url}/generate/sdxl${authorization} -H 'Content-Type: application/json' -d '${body}' | sed 's/.*"image_b64":"\\([^"]*\\)".*/\\1/' | base64 -d > apple.jpg`,
    '',
  ]
}
