// A file that an asset is made of, fetched by the server from a repository of the Hugging Face hub.
import { AppError } from '../../../errors.ts'
import type { ByteSink } from './fetch-url.ts'
import { chooseHubFiles } from './hub-files.ts'
import { openHubRepository, parseHubReference, type HubAccess } from './hub-repository.ts'
import { failed, openRemote } from './remote-file.ts'

/**
 * Fetch the file of `OWNER/NAME[@REVISION][:FILE]` into a sink and tell its name. Throws `bad_argument` where that is not
 * one file, `too_large`, `fetch_failed`, `cancelled`, and what the sink throws.
 */
export async function fetchHfRepo(reference: string, access: HubAccess, sink: ByteSink): Promise<{ name: string }> {
  const { endpoint, field, rules, token } = access
  const parsed = parseHubReference(reference, field)
  const repository = await openHubRepository(parsed, access)
  const choice = chooseHubFiles(repository, parsed, { field, variant: null })
  if (choice.layout === 'folder')
    throw new AppError(
      'bad_argument',
      `${field}: ${parsed.repo} is a folder of several files, and an asset is one; add ":" and the name of a single file`,
      { field },
    )
  const { path, url } = choice.file
  await using file = await openRemote({ url, field, token: token ?? undefined }, { ...rules, trustedOrigin: endpoint })
  if (file.status !== 200) throw failed(field, `its server answered with status ${file.status}`)
  await sink(file.body)
  return { name: path }
}
