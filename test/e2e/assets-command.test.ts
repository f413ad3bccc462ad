// `sepia assets` beside a running server and without one, and a folder that is the public library.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { inversionFile } from '../support/inversion-file.ts'
import { startFileServer } from '../support/file-server.ts'
import { startServer, tinyWide } from '../support/running-server.ts'
import { makePlace, removePlace, sepia } from '../support/sepia-command.ts'

type Listed = { assets: { name: string; isPublic: boolean; status: string; hash: string }[] }

describe('sepia assets', () => {
  it('keeps the library beside a server, which takes its public part from a folder', async () => {
    const place = makePlace()
    try {
      const shelf = path.join(place.folder, 'shelf/textual_inversion')
      mkdirSync(shelf, { recursive: true })
      writeFileSync(path.join(shelf, 'mist.safetensors'), inversionFile(0.5))
      writeFileSync(path.join(shelf, 'broken.safetensors'), 'no weights')
      writeFileSync(path.join(shelf, 'a b.safetensors'), inversionFile(0.5))
      const argv = ['--public-assets', path.dirname(shelf)]
      const publicNames = async (server: Awaited<ReturnType<typeof startServer>>): Promise<string[][]> => {
        const { assets } = (await server.administer('assets', 'list', '--public')) as Listed
        return assets.map(({ name, hash }) => [name, hash])
      }
      let before: string[][]
      {
        await using server = await startServer(argv, { place })
        before = await publicNames(server)
        expect(before.map(([name]) => name)).toEqual(['mist'])
        const left = server.log().filter(({ msg }) => msg === 'a file is left out of the public library')
        expect(left.map(({ file }) => file)).toEqual([
          'textual_inversion/a b.safetensors',
          'textual_inversion/broken.safetensors',
        ])
        expect(left.map(({ reason }) => String(reason))).toEqual([
          'its name must be 1 to 64 letters, digits, _ and -',
          expect.stringMatching(/^broken: .*safetensors/),
        ])

        // Own assets, by a URL of this machine's.
        await using files = await startFileServer((_, response) => void response.end(inversionFile(0.25, 2)))
        const added = await server.administer(
          'assets',
          'add',
          `${files.origin}/fog.safetensors`,
          '--type',
          'textual_inversion',
        )
        expect(added).toMatchObject({
          name: 'fog',
          status: 'ready',
          isPublic: false,
          url: `${files.origin}/fog.safetensors`,
        })
        expect(added).toMatchObject({ report: { details: { kind: 'textual_inversion', vectors: 2 } } })
        const wrong = server.administer('assets', 'add', path.join(shelf, 'mist.safetensors'), '--type', 'lora')
        await expect(wrong).rejects.toThrow(/"code":"bad_file"/)
        const response = await fetch(`${server.url}/v1/assets`, {
          headers: { authorization: `Bearer ${server.token}` },
        })
        expect(await response.json()).toMatchObject({ data: [{ name: 'fog' }], total: 1 })
        await server.administer('assets', 'export', 'fog', path.join(place.folder, 'out/fog.safetensors'))
        expect(readFileSync(path.join(place.folder, 'out/fog.safetensors'))).toEqual(inversionFile(0.25, 2))
        await server.stop()
      }

      // Without a server the same folder is opened; what was rejected has left nothing.
      const own = ['--data', path.join(place.folder, 'data'), '--model', tinyWide, '--json']
      const shown = await sepia(place, ['assets', 'show', 'fog', ...own])
      expect(JSON.parse(shown.stdout)).toMatchObject({ name: 'fog', account: 'default' })
      // Both names are found, the second of them in the public library.
      const picture = ['generate', 'a cat', '--ti', 'fog=cat', '--vae', 'mist', ...own]
      expect(JSON.parse((await sepia(place, picture)).stdout)).toEqual({
        error: { code: 'bad_argument', message: '--vae: the asset "mist" is a textual_inversion, not a vae' },
      })
      expect((await sepia(place, ['assets', 'remove', 'fog', ...own])).code).toBe(0)
      const gone = await sepia(place, ['assets', 'show', 'fog', ...own])
      expect(JSON.parse(gone.stdout)).toMatchObject({ error: { code: 'not_found' } })

      // A second start reads nothing again, but takes what has changed.
      writeFileSync(path.join(shelf, 'broken.safetensors'), inversionFile(0.75))
      await using server = await startServer(argv, { place })
      const after = await publicNames(server)
      expect(after.map(([name]) => name).sort()).toEqual(['broken', 'mist'])
      expect(after).toContainEqual(before[0])
    } finally {
      removePlace(place)
    }
  }, 120_000)
})
