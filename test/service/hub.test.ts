// Repositories of a hub: which files are taken, how they are downloaded and gone on with, what is believed.
import { createHash } from 'node:crypto'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { downloadFile, type Download } from '#service/assets/remote/download-file.ts'
import { fetchHfRepo } from '#service/assets/remote/fetch-hf-repo.ts'
import { chooseHubFiles } from '#service/assets/remote/hub-files.ts'
import { openHubRepository, parseHubReference, type HubAccess } from '#service/assets/remote/hub-repository.ts'
import type { FetchRules } from '#service/assets/remote/remote-file.ts'
import { startHub, hubCommit } from '../support/hub-server.ts'
import { startFileServer } from '../support/file-server.ts'
import { temporaryFolder } from '../support/temporary-folder.ts'

const rules: FetchRules = { allowLoopback: false, maxBytes: 1e6, idleMs: 5000, totalMs: 20_000 }
const access = (endpoint: string, token: string | null = null): HubAccess => ({
  endpoint,
  token,
  field: 'hf_repo',
  rules,
})
const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex')

describe('a reference', () => {
  it('names a repository, a revision and a file', () => {
    expect(parseHubReference('hf:ann/model', 'x')).toEqual({ repo: 'ann/model', revision: 'main', file: null })
    expect(parseHubReference('a.b/c-d@refs/pr/1:unet/x.safetensors', 'x')).toEqual({
      repo: 'a.b/c-d',
      revision: 'refs/pr/1',
      file: 'unet/x.safetensors',
    })
  })

  it.each(['', 'model', 'a/b/c', '../b', 'a/..', 'a/b@../c', 'a/b@', 'a/b:', 'a /b', 'https://x/a/b', 'a/b?x=1'])(
    'is not "%s"',
    (text) => expect(() => parseHubReference(text, 'hf_repo')).toThrow(/^hf_repo must be OWNER\/REPOSITORY/),
  )
})

describe('the files of a repository', () => {
  const choose = (paths: readonly string[], file: string | null = null, variant: string | null = null) => {
    const files = paths.map((name) => ({ path: name, sizeBytes: 1, sha256: null, url: '' }))
    const choice = chooseHubFiles({ repo: 'a/b', commit: '', files }, { repo: 'a/b', file }, { field: 'f', variant })
    return choice.layout === 'file' ? choice.file.path : choice.files.map((one) => one.path)
  }
  const folder = [
    'model_index.json',
    'README.md',
    'model.safetensors',
    'vae_1_0/diffusion_pytorch_model.safetensors',
    'scheduler/scheduler_config.json',
    'tokenizer/vocab.json',
    'tokenizer/merges.txt',
    'tokenizer/x.bin',
    'unet/config.json',
    'unet/diffusion_pytorch_model.bin',
    'unet/model.onnx',
    'unet/deep/x.safetensors',
    'unet/a.safetensors.index.json',
    'unet/a-00001-of-00002.safetensors',
    'unet/a-00002-of-00002.safetensors',
    'unet/a.safetensors.index.fp16.json',
    'unet/a.fp16-00001-of-00001.safetensors',
    'vae/config.json',
    'vae/b.safetensors',
  ]
  const plain = [
    'model_index.json',
    'scheduler/scheduler_config.json',
    'tokenizer/vocab.json',
    'tokenizer/merges.txt',
    'unet/config.json',
    'unet/a.safetensors.index.json',
    'unet/a-00001-of-00002.safetensors',
    'unet/a-00002-of-00002.safetensors',
    'vae/config.json',
    'vae/b.safetensors',
  ]
  const fp16 = [
    'model_index.json',
    'scheduler/scheduler_config.json',
    'tokenizer/vocab.json',
    'tokenizer/merges.txt',
    'unet/config.json',
    'unet/a.safetensors.index.fp16.json',
    'unet/a.fp16-00001-of-00001.safetensors',
    'vae/config.json',
    'vae/b.safetensors',
  ]

  it('are those of a diffusers folder that we read, in one variant', () => {
    expect(choose(folder)).toEqual(plain)
    expect(choose(folder, null, 'fp16')).toEqual(fp16)
    expect(() => choose(folder, null, 'bf16')).toThrow('f: a/b has no safetensors weights of the variant "bf16"')
  })

  it('are the one that is named, or the only one of weights', () => {
    expect(choose(folder, 'model.safetensors')).toBe('model.safetensors')
    expect(choose(['x.txt', 'x.ckpt', 'x.safetensors'])).toBe('x.safetensors')
    expect(choose(['x.txt', 'x.bin'])).toBe('x.bin')
    expect(() => choose(['a.safetensors', 'b.safetensors'])).toThrow(
      'f: a/b has several; name one: a.safetensors, b.safetensors',
    )
    expect(() => choose(['a.txt'])).toThrow('f: a/b has no file of weights')
    expect(() => choose(['a.bin'], 'c.bin')).toThrow('f: a/b has no file "c.bin"; it has a.bin')
  })
})

describe('a hub', () => {
  it('is asked for a commit, all pages of its files, and one of them', async () => {
    await using hub = await startHub({ 'ann/lora': { 'README.md': 'words', 'sub/a b.safetensors': 'weights' } })
    const repository = await openHubRepository(parseHubReference('ann/lora', 'hf_repo'), access(hub.origin))
    const url = (name: string): string => `${hub.origin}/ann/lora/resolve/${hubCommit}/${name}`
    expect(repository).toEqual({
      repo: 'ann/lora',
      commit: hubCommit,
      files: [
        { path: 'README.md', sizeBytes: 5, sha256: null, url: url('README.md') },
        { path: 'sub/a b.safetensors', sizeBytes: 7, sha256: sha256('weights'), url: url('sub/a%20b.safetensors') },
      ],
    })
    let text = ''
    const { name } = await fetchHfRepo('ann/lora', access(hub.origin), async (bytes) => {
      for await (const chunk of bytes) text += Buffer.from(chunk).toString()
    })
    expect([name, text]).toEqual(['sub/a b.safetensors', 'weights'])
  })

  it('gives a private repository to its token, and the same refusal to everybody else as for none', async () => {
    await using hub = await startHub({ 'ann/own': { 'x.safetensors': 'w' } }, { token: 'hf_right' })
    const sink = (): Promise<void> => Promise.resolve()
    expect(await fetchHfRepo('ann/own', access(hub.origin, 'hf_right'), sink)).toEqual({ name: 'x.safetensors' })
    for (const [repo, token] of [
      ['ann/own', null],
      ['ann/own', 'hf_wrong'],
      ['ann/none', 'hf_right'],
    ] as const)
      await expect(fetchHfRepo(repo, access(hub.origin, token), sink)).rejects.toMatchObject({
        code: 'fetch_failed',
        message: `hf_repo: there is no repository ${repo} at main, or a token is needed`,
      })
  })

  it('cannot send us to a private address', async () => {
    await using hub = await startFileServer((_, response) => {
      response.writeHead(302, { location: 'https://192.168.0.1/' }).end()
    })
    const asked = openHubRepository(parseHubReference('a/b', 'hf_repo'), access(hub.origin))
    await expect(asked).rejects.toMatchObject({ code: 'fetch_failed' })
  })

  it('does not make an asset of a folder', async () => {
    await using hub = await startHub({ 'a/b': { 'model_index.json': '{}', 'unet/x.safetensors': 'w' } })
    await expect(fetchHfRepo('a/b', access(hub.origin), () => Promise.resolve())).rejects.toMatchObject({
      code: 'bad_argument',
      message: expect.stringMatching(/^hf_repo: a\/b is a folder of several files, and an asset is one/),
    })
  })
})

describe('a download', () => {
  const content = 'a'.repeat(400_000)
  const order = async (url: string, changes: Partial<Download> = {}): Promise<Download> => ({
    url,
    field: 'FILE',
    sizeBytes: content.length,
    sha256: sha256(content),
    target: path.join(await temporaryFolder('download'), 'deep/model.safetensors'),
    ...changes,
  })

  it('goes on where an earlier one was cut off', async () => {
    let cut = true
    await using server = await startFileServer((incoming, response) => {
      const from = Number(/^bytes=(\d+)-$/.exec(incoming.headers.range ?? '')?.[1] ?? 0)
      const rest = content.slice(from)
      const range = { 'content-range': `bytes ${from}-${content.length - 1}/${content.length}` }
      response.writeHead(from > 0 ? 206 : 200, { 'content-length': rest.length, ...(from > 0 && range) })
      if (cut) response.write(rest.slice(0, 150_000), () => response.destroy())
      else response.end(rest)
      cut = false
    })
    const download = await order(server.origin)
    const given = { ...rules, trustedOrigin: server.origin }
    await expect(downloadFile(download, given)).rejects.toMatchObject({ code: 'fetch_failed' })
    expect(existsSync(download.target)).toBe(false)
    const there = readFileSync(`${download.target}.part`).length
    expect(there).toBeGreaterThan(0)
    const told: number[] = []
    const onProgress = (bytes: number): void => void told.push(bytes)
    expect(await downloadFile({ ...download, onProgress }, given)).toEqual({
      sha256: sha256(content),
      sizeBytes: content.length,
    })
    expect(server.asked[1].headers.range).toBe(`bytes=${there}-`)
    expect([told[0], told.at(-1)]).toEqual([there, content.length])
    expect(readFileSync(download.target, 'latin1')).toBe(content)
    expect(existsSync(`${download.target}.part`)).toBe(false)
  })

  it('begins anew with a server that knows no ranges, and needs none for what is complete', async () => {
    await using server = await startFileServer((_, response) => void response.end(content))
    const given = { ...rules, trustedOrigin: server.origin }
    const download = await order(server.origin)
    const target = path.join(path.dirname(path.dirname(download.target)), 'x')
    writeFileSync(`${target}.part`, 'b'.repeat(10))
    await downloadFile({ ...download, target }, given)
    expect(readFileSync(target, 'latin1')).toBe(content)
    writeFileSync(`${target}.part`, content)
    await downloadFile({ ...download, target }, given)
    expect(server.asked).toHaveLength(1)
  })

  it('keeps nothing whose hash is wrong', async () => {
    await using server = await startFileServer((_, response) => void response.end(`b${content.slice(1)}`))
    const download = await order(server.origin)
    await expect(downloadFile(download, { ...rules, trustedOrigin: server.origin })).rejects.toMatchObject({
      code: 'bad_file',
      message: 'FILE: model.safetensors arrived damaged; try again',
    })
    expect(existsSync(`${download.target}.part`)).toBe(false)
  })
})
