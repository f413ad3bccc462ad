// The asset library over HTTP: a real office whose engines look into uploads as these say themselves.
import { createHash } from 'node:crypto'
import { rm, writeFile } from 'node:fs/promises'
import { request as httpRequest } from 'node:http'
import path from 'node:path'
import sharp from 'sharp'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { call, openHttpOffice, portOf, type Answer, type Client, type HttpOffice } from '../support/http-office.ts'

let door: HttpOffice
let client: Client
let other: Client

beforeAll(async () => {
  door = await openHttpOffice()
  client = await door.newClient()
  other = await door.newClient()
})
afterAll(() => door[Symbol.asyncDispose]())

type AssetJson = Readonly<Record<string, unknown>> & { readonly id: string; readonly status: string }
type Made = { readonly asset: AssetJson; readonly transfer_api: Readonly<Record<string, string>> }

const engine = 'image/stable-diffusion-xl-v1-0'
const lora = (name: string, changes: object = {}) => ({
  name,
  asset_type: 'lora',
  data: { asset_type: 'lora', engine },
  ...changes,
})
const get = (url: string, by: Client = client) => call(door.server, 'GET', url, { by })
const post = (url: string, payload: object, by: Client = client) => call(door.server, 'POST', url, { by, payload })
const remove = (url: string, by: Client = client) => call(door.server, 'DELETE', url, { by })
const create = async (payload: object, by: Client = client): Promise<Made> => {
  const answer = await post('/v1/assets', payload, by)
  expect(answer).toMatchObject({ status: 200 })
  return answer.json as Made
}
const pathOf = (url: string): string => url.replace('http://sepia.test', '')
/** Over the network, as whoever sends a file does: with neither a token nor a content type. */
async function put(url: string, body: string | Uint8Array<ArrayBuffer>) {
  const place = `http://127.0.0.1:${await portOf(door.server)}${pathOf(url)}`
  const bytes = typeof body === 'string' ? new TextEncoder().encode(body) : body
  const answer = await fetch(place, { method: 'PUT', body: bytes })
  return { status: answer.status, json: await answer.json() }
}
const assetOf = (answer: Answer): AssetJson => (answer.json as Made).asset
const blobsThere = async () => (await Array.fromAsync(door.office.blobs.list('assets/'))).length

/** The asset when it was inspected, which may take longer than completing its upload does. */
async function inspected(id: string, by: Client = client): Promise<AssetJson> {
  await expect.poll(async () => assetOf(await get(`/v1/assets/${id}`, by)).status).not.toBe('uploaded')
  return assetOf(await get(`/v1/assets/${id}`, by))
}

/** Create, send and complete. */
async function upload(name: string, bytes: string, changes: object = {}, by: Client = client): Promise<AssetJson> {
  return inspected(await send(name, bytes, changes, by), by)
}

async function send(name: string, bytes: string, changes: object = {}, by: Client = client): Promise<string> {
  const { asset, transfer_api } = await create(lora(name, changes), by)
  expect(await put(transfer_api['put_url'], bytes)).toMatchObject({ status: 200, json: {} })
  const completed = await post(`/v1/assets/${asset.id}/complete-upload`, {}, by)
  expect(completed).toMatchObject({ status: 200 })
  return asset.id
}

describe('an upload by URL', () => {
  it('goes from ready_to_upload to ready, with what the file tells', async () => {
    const { asset, transfer_api } = await create(lora('first', { description: null }))
    expect(asset).toEqual({
      id: expect.stringMatching(/^asset_[0-9a-z]{26}$/),
      asset_type: 'lora',
      name: 'first',
      description: '',
      size_bytes: 0,
      status: 'ready_to_upload',
      status_details: '',
      created_at: expect.stringMatching(/^\d{4}-\d\d-\d\dT/),
      data: { asset_type: 'lora', engine, data_type: null, file_format: null, trigger_words: [], checkpoint: null },
      tenant_uuid: expect.stringMatching(/^[0-9a-f-]{36}$/),
      is_public: false,
      url: null,
      hf_repo: null,
      file_structure: 'single_file',
      status_info: null,
    })
    expect(transfer_api['type']).toBe('presigned-url')
    expect((await put(transfer_api['put_url'], 'good bytes')).status).toBe(200)
    expect(assetOf(await get('/v1/assets/first')).status).toBe('uploading')
    expect(await post(`/v1/assets/${asset.id}/complete-upload`, {})).toMatchObject({ json: { error: null } })
    const ready = await inspected(asset.id)
    expect(ready).toMatchObject({
      status: 'ready',
      size_bytes: 10,
      data: { data_type: 'fp16', file_format: 'safetensors', trigger_words: ['told'] },
      status_info: { architecture: 'Stable Diffusion XL', tensors: 2 },
    })
    const again = (await get(`/v1/assets/${asset.id}`)).json as Made
    const file = await get(pathOf(again.transfer_api['get_url']))
    expect(file.text).toBe('good bytes')
    expect(file.headers).toMatchObject({
      'content-type': 'application/octet-stream',
      'content-length': '10',
      'x-content-type-options': 'nosniff',
      'content-disposition': `attachment; filename="${asset.id}"`,
    })
  })

  it('is rejected with its reason, without a place of this machine, and leaves no bytes', async () => {
    const before = await blobsThere()
    const rejected = await upload('bad', 'nonsense')
    expect(rejected).toMatchObject({ status: 'rejected', status_details: 'the file: is no lora', size_bytes: 0 })
    expect(await post(`/v1/assets/${rejected.id}/complete-upload`, {})).toMatchObject({
      status: 200,
      json: { error: 'the file: is no lora' },
    })
    expect(await blobsThere()).toBe(before)
  })

  it('is kept as it was converted', async () => {
    const { id } = await upload('converted', 'pickle x')
    const { transfer_api } = (await get(`/v1/assets/${id}`)).json as Made
    expect((await get(pathOf(transfer_api['get_url']))).text).toBe('good x')
    expect(assetOf(await get('/v1/assets/converted'))).toMatchObject({
      size_bytes: 6,
      data: { file_format: 'safetensors' },
    })
  })

  it('may be sent again until it is complete, and not after', async () => {
    const before = await blobsThere()
    const { asset, transfer_api } = await create(lora('twice'))
    await put(transfer_api['put_url'], 'nonsense')
    expect((await put(transfer_api['put_url'], 'good again')).status).toBe(200)
    expect(await blobsThere()).toBe(before + 1)
    await post(`/v1/assets/${asset.id}/complete-upload`, {})
    expect(await put(transfer_api['put_url'], 'nonsense')).toMatchObject({ status: 403 })
    expect(await inspected(asset.id)).toMatchObject({ status: 'ready', size_bytes: 10 })
  })

  it('cannot be completed without bytes', async () => {
    const { asset } = await create(lora('empty'))
    const answer = await post(`/v1/assets/${asset.id}/complete-upload`, {})
    expect(answer).toMatchObject({ status: 422 })
    expect(answer.text).toContain('has no file yet')
  })

  it('waits for its inspection when that takes long: uploaded first, ready then', async () => {
    const go = path.join(door.folder, 'go')
    await send('slow', `wait ${go}`)
    expect(assetOf(await get('/v1/assets/slow')).status).toBe('uploaded')
    await writeFile(go, '')
    await expect.poll(async () => assetOf(await get('/v1/assets/slow')).status).toBe('ready')
  })

  it('whose inspection kills its process ends as an error', async () => {
    expect(await upload('deadly', 'crash')).toMatchObject({ status: 'error' })
  })

  it('of bytes that another account has is looked into all the same, so that its time tells nothing', async () => {
    const go = path.join(door.folder, 'again')
    await writeFile(go, '')
    expect(await upload('theirs', `wait ${go}`, {}, other)).toMatchObject({ status: 'ready' })
    await rm(go)
    const sent = send('mine', `wait ${go}`)
    await expect.poll(async () => assetOf(await get('/v1/assets/mine')).status).toBe('uploaded')
    await writeFile(go, '')
    expect(await inspected(await sent)).toMatchObject({ status: 'ready' })
  })

  it('of the same bytes by two accounts is one file, and each has its own', async () => {
    const before = await blobsThere()
    const mine = await upload('same', 'good shared bytes')
    const theirs = await upload('same', 'good shared bytes', {}, other)
    expect(mine.id).not.toBe(theirs.id)
    expect(await blobsThere()).toBe(before + 1)
    expect(await remove(`/v1/assets/${mine.id}`)).toMatchObject({
      status: 200,
      json: { id: mine.id, deleted_at: expect.any(String) },
    })
    expect(await blobsThere()).toBe(before + 1)
    await remove(`/v1/assets/${theirs.id}`, other)
    expect(await blobsThere()).toBe(before)
  })
})

describe('a signed URL', () => {
  it.each([
    ['another method', (url: string) => call(door.server, 'GET', pathOf(url)), 403],
    ['another size', (url: string) => put(url.replace(/limit=\d+/, 'limit=99999999999'), 'good'), 403],
    ['another time', (url: string) => put(url.replace(/expires=\d+/, 'expires=99999999999'), 'good'), 403],
    ['another asset', (url: string) => put(url.replace(/asset_.{26}/, `asset_${'0'.repeat(26)}`), 'good'), 403],
    ['no signature', (url: string) => put(url.replace(/&signature=.*/, ''), 'good'), 422],
    ['another signature', (url: string) => put(url.replace(/signature=./, 'signature=z'), 'good'), 403],
  ])('is refused with %s', async (name, send, status) => {
    const { transfer_api } = await create(lora(`signed-${name.replaceAll(' ', '-')}`))
    const before = await blobsThere()
    expect(await send(transfer_api['put_url'])).toMatchObject({ status })
    expect(await blobsThere()).toBe(before)
  })

  it('takes no more than its limit, announced or not', async () => {
    const { asset, transfer_api } = await create({
      name: 'large',
      asset_type: 'file',
      data: { asset_type: 'file', file_format: 'txt' },
    })
    const before = await blobsThere()
    const port = await portOf(door.server)
    const send = (headers: Record<string, string>, mib: number) =>
      new Promise<number | null>((resolve) => {
        const url = new URL(pathOf(transfer_api['put_url']), `http://127.0.0.1:${port}`)
        const outgoing = httpRequest(url, { method: 'PUT', headers }, (answer) => {
          answer.resume()
          resolve(answer.statusCode ?? null)
        })
        outgoing.on('error', () => resolve(null))
        const block = Buffer.alloc(2 ** 20)
        for (let i = 0; i < mib; i++) outgoing.write(block)
        outgoing.end()
      })
    expect(await send({ 'content-length': `${65 * 2 ** 20}` }, 0)).toBe(413)
    expect(await send({}, 66)).not.toBe(200)
    expect(await blobsThere()).toBe(before)
    expect(assetOf(await get(`/v1/assets/${asset.id}`)).size_bytes).toBe(0)
  })

  it('whose body breaks off leaves nothing', async () => {
    const { asset, transfer_api } = await create(lora('broken'))
    const before = await blobsThere()
    const port = await portOf(door.server)
    await new Promise<void>((resolve) => {
      const url = new URL(pathOf(transfer_api['put_url']), `http://127.0.0.1:${port}`)
      const outgoing = httpRequest(url, { method: 'PUT', headers: { 'content-length': '1000000' } })
      outgoing.on('error', () => resolve())
      outgoing.write('good', () => setImmediate(() => outgoing.destroy(new Error('gone'))))
    })
    await expect.poll(() => door.log.some((line) => line.includes('the upload broke off'))).toBe(true)
    expect(await blobsThere()).toBe(before)
    expect(await post(`/v1/assets/${asset.id}/complete-upload`, {})).toMatchObject({ status: 422 })
  })
})

describe('creating', () => {
  it.each([
    ['a name with other characters', { name: 'a b' }, 'name'],
    ['a name like an id', { name: `asset_${'0'.repeat(26)}` }, 'name'],
    ['a name of 65', { name: 'x'.repeat(65) }, 'name'],
    ['an unknown type', { asset_type: 'model' }, 'asset_type'],
    ['data of another type', { data: { asset_type: 'vae', engine } }, 'data'],
    ['an engine that is not run here', { data: { asset_type: 'lora', engine: 'image/flux-dev' } }, 'data'],
    ['an unknown engine', { data: { asset_type: 'lora', engine: 'image/none' } }, 'data'],
    ['an unknown field', { size: 1 }, 'size'],
    ['gcp-oauth', { transfer_api_type: 'gcp-oauth' }, 'transfer_api_type'],
    ['a URL', { url: 'https://example.com/x.safetensors' }, 'url'],
    ['a repository', { hf_repo: 'a/b' }, 'hf_repo'],
  ])('refuses %s', async (_name, changes, field) => {
    const answer = await post('/v1/assets', lora('refused', changes))
    expect(answer).toMatchObject({ status: 422, json: { detail: [{ loc: expect.arrayContaining(['body', field]) }] } })
  })

  it('refuses a name that is taken, until its asset is deleted', async () => {
    const { asset } = await create(lora('taken'))
    expect(await post('/v1/assets', lora('taken'))).toMatchObject({ status: 422 })
    await create(lora('taken'), other)
    await remove(`/v1/assets/${asset.id}`)
    await create(lora('taken'))
  })

  it('refuses public assets of ordinary accounts', async () => {
    expect(await post('/v1/assets', lora('mine', { is_public: true }))).toMatchObject({ status: 403 })
  })

  it('keeps pictures that are what they say', async () => {
    const picture = await sharp({ create: { width: 8, height: 8, channels: 3, background: 'red' } })
      .png()
      .toBuffer()
    const sendPicture = async (name: string, format: string) => {
      const data = { asset_type: 'file', file_format: format }
      const { asset, transfer_api } = await create({ name, asset_type: 'file', data })
      expect((await put(transfer_api['put_url'], new Uint8Array(picture))).status).toBe(200)
      await post(`/v1/assets/${asset.id}/complete-upload`, {})
      return inspected(asset.id)
    }
    expect(await sendPicture('picture', 'png')).toMatchObject({ status: 'ready' })
    expect(await sendPicture('no-jpeg', 'jpg')).toMatchObject({
      status: 'rejected',
      status_details: expect.stringContaining('png'),
    })
    const listed = (await get('/v1/assets?name=picture&get_preview_urls=true')).json as { data: { data: object }[] }
    expect(listed.data[0].data).toMatchObject({ preview_url: expect.stringContaining('/v1/transfers/asset_') })
  })
})

describe('lists', () => {
  it('filter and page', async () => {
    const viewer = await door.newClient()
    for (const name of ['a', 'b', 'c']) await create(lora(name), viewer)
    await create({ name: 'v', asset_type: 'vae', data: { asset_type: 'vae', engine, data_type: 'fp32' } }, viewer)
    const names = async (query: string): Promise<string[]> => {
      const answer = await get(`/v1/assets?${query}`, viewer)
      expect(answer).toMatchObject({ status: 200 })
      return (answer.json as { data: { name: string }[] }).data.map(({ name }) => name).sort()
    }
    expect(await names('')).toEqual(['a', 'b', 'c', 'v'])
    expect(await names('asset_type=vae')).toEqual(['v'])
    expect(await names('asset_type=vae&asset_type=lora')).toEqual(['a', 'b', 'c', 'v'])
    expect(await names('data_type=fp32')).toEqual(['v'])
    expect(await names(`engine=${encodeURIComponent(engine)}`)).toHaveLength(4)
    expect(await names('engine_type=text')).toEqual([])
    expect(await names('engine_type=image')).toHaveLength(4)
    expect(await names('is_public=true')).toEqual([])
    expect(await names('is_public=false')).toHaveLength(4)
    expect(await names('name=b')).toEqual(['b'])
    expect(await names('owner=octoai')).toEqual([])
    expect(await names(`owner=${viewer.account.name}`)).toHaveLength(4)
    expect(await names(`owner=${client.account.name}`)).toEqual([])
    expect((await get('/v1/assets?limit=3', viewer)).json).toMatchObject({ has_more: true, total: 4 })
    expect((await get('/v1/assets?limit=3&offset=3', viewer)).json).toMatchObject({ has_more: false, total: 4 })
    const { data } = (await get('/v1/assets?name=a', viewer)).json as { data: { id: string }[] }
    expect(await names(`asset_ids=${data[0].id},asset_x`)).toEqual(['a'])
    for (const bad of ['limit=0', 'limit=101', 'asset_type=x', 'page=1'])
      expect(await get(`/v1/assets?${bad}`, viewer)).toMatchObject({ status: 422 })
  })
})

describe('assets of others', () => {
  it('answer like those that there are not', async () => {
    const { id } = await upload('secret', 'good secret')
    const nothing = (shown: string) => ({ status: 404, json: { detail: `there is no asset ${JSON.stringify(shown)}` } })
    const owner = client.account.name
    for (const reference of [id, 'secret', `${owner}:secret`, `octoai:secret`, 'asset_00000000000000000000000000']) {
      expect(await get(`/v1/assets/${encodeURIComponent(reference)}`, other)).toMatchObject(nothing(reference))
      expect(await remove(`/v1/assets/${encodeURIComponent(reference)}`, other)).toMatchObject(nothing(reference))
    }
    expect(await post(`/v1/assets/${id}/complete-upload`, {}, other)).toMatchObject(nothing(id))
    expect((await get(`/v1/assets?asset_ids=${id}`, other)).json).toMatchObject({ total: 0 })
    const order = await post('/generate/sdxl', { prompt: 'pictures', loras: { [id]: 1 } }, other)
    expect(order).toMatchObject(nothing(id))
    expect(assetOf(await get(`/v1/assets/${encodeURIComponent(`${owner}:secret`)}`)).id).toBe(id)
    expect(await get('/v1/assets', { ...other, headers: { authorization: '' } })).toMatchObject({ status: 401 })
  })
})

describe('an order', () => {
  const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex')

  it('names assets, and its engine gets their files', async () => {
    const mine = await upload('style', 'good style')
    await upload('word', 'good word', {
      asset_type: 'textual_inversion',
      data: { asset_type: 'textual_inversion', engine },
    })
    await upload('colours', 'good colours', { asset_type: 'vae', data: { asset_type: 'vae', engine } })
    await upload('model', 'good model', { asset_type: 'checkpoint', data: { asset_type: 'checkpoint', engine } })
    const answer = await post('/generate/sdxl', {
      prompt: 'files',
      checkpoint: 'model',
      loras: { style: -0.5, [mine.id]: '2' },
      textual_inversions: { [`${client.account.name}:word`]: ' “sks” ' },
      vae: 'colours',
    })
    // The fixture answers with the files that it was given.
    const told = JSON.parse((answer.json as { detail: { msg: string }[] }).detail[0].msg) as {
      checkpoint: string
      servedModel: string
      assets: Record<string, string>
    }
    expect(Object.keys(told.assets).sort()).toEqual(
      ['good style', 'good word', 'good colours', 'good model'].map(sha256).sort(),
    )
    expect(told.checkpoint).toBe(told.assets[sha256('good model')])
    expect(told.servedModel).toBe('model')
    const made = await post('/generate/sdxl', { prompt: 'pictures', loras: { style: 1 }, steps: 30 })
    expect(made).toMatchObject({ status: 200 })
    const { data } = (await get('/v1/requests?limit=1')).json as { data: { id: string }[] }
    expect(data).toHaveLength(1)
    expect((await get('/v1/usage')).json).toMatchObject({ spent_usd: '0.008000' })
  })

  it.each([
    [{ loras: { absent: 1 } }, 404, 'there is no asset \\"absent\\"'],
    [{ loras: { 'octoai:add-detail': 1 } }, 404, 'octoai:add-detail'],
    [{ vae: 'kind-lora' }, 422, 'is a lora, and this field takes a vae'],
    [{ loras: { 'kind-open': 1 } }, 422, 'is not ready, but ready_to_upload'],
    [{ loras: { 'kind-bad': 1 } }, 422, 'was rejected: the file: is no lora'],
    [
      { loras: Object.fromEntries(Array.from({ length: 101 }, (_, i) => [`l${i}`, 1])) },
      422,
      'at most 100 in a request',
    ],
    [{ textual_inversions: { 'kind-ti': 'a', 'octoai:x': 'b' } }, 404, 'octoai:x'],
    [{ textual_inversions: { 'kind-ti': '' } }, 422, 'must have 1 to 100 printable characters'],
  ])('is refused with %j', async (changes, status, message) => {
    const found = (await get('/v1/assets?name=kind-lora')).json as { total: number }
    if (found.total === 0) {
      await upload('kind-lora', 'good kind')
      await upload('kind-bad', 'nonsense')
      await create(lora('kind-open'))
      const data = { asset_type: 'textual_inversion', engine }
      await upload('kind-ti', 'good ti', { asset_type: 'textual_inversion', data })
    }
    const answer = await post('/generate/sdxl', { prompt: 'pictures', ...changes })
    expect(answer).toMatchObject({ status: status })
    expect(answer.text).toContain(message)
  })
})
