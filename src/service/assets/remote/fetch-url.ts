// A file that an asset is made of, fetched by the server because its owner named a URL.
import { failed, openRemote, type FetchRules } from './remote-file.ts'

/** Takes the bytes as they come; a rejection ends the fetch. */
export type ByteSink = (bytes: AsyncIterable<Uint8Array>) => Promise<void>

/**
 * Fetch a URL into a sink. Throws `bad_argument` for a URL that may not be named, `too_large`, `fetch_failed`, `cancelled`,
 * and what the sink throws.
 */
export async function fetchUrl(url: string, rules: FetchRules, sink: ByteSink): Promise<void> {
  await using file = await openRemote({ url, field: 'url' }, rules)
  if (file.status !== 200) throw failed('url', `its server answered with status ${file.status}`)
  await sink(file.body)
}
