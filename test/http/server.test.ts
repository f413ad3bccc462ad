// The door in front of a real office, request by request. Prompts tell the test engine what to do.
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import sharp from 'sharp'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { HttpServer } from '../../src/http/context.ts'
import {
  call as callOn,
  openHttpOffice,
  portOf,
  type Call,
  type Client,
  type HttpOffice,
} from '../support/http-office.ts'

let door: HttpOffice
let server: HttpServer
let client: Client
/** Numbers the files that engine tasks wait for. */
let files = 0

beforeAll(async () => {
  door = await openHttpOffice()
  server = door.server
  client = await door.newClient()
})
afterAll(() => door[Symbol.asyncDispose]())

const newFile = (): string => path.join(door.folder, `go-${++files}`)
const body = (fields: object = {}) => ({ prompt: 'pictures', steps: 2, seed: 5, use_refiner: false, ...fields })

/** One request, with the client's token unless said otherwise. */
const call = (method: Parameters<typeof callOn>[1], url: string, given: Call & { on?: HttpServer } = {}) =>
  callOn(given.on ?? server, method, url, { by: client, ...given })

const generate = (fields: object = {}, given: Call & { on?: HttpServer } = {}) =>
  call('POST', '/generate/sdxl', { payload: body(fields), ...given })
const asynchronous = { 'x-octoai-async': '1' }
const submit = async (fields: object = {}, given: Call & { on?: HttpServer } = {}): Promise<string> => {
  const { status, json } = await generate(fields, { ...given, headers: { ...asynchronous, ...given.headers } })
  expect(status).toBe(201)
  return (json as { response_id: string }).response_id
}
const ended = (id: string) => door.office.jobs.ended(id)

/** Resolves when the engine has begun a job that waits for a file. */
async function begun(id: string): Promise<void> {
  for await (const event of door.office.jobs.watch(id, AbortSignal.timeout(20_000)))
    if (event.type === 'progress' || (event.type === 'state' && event.job.step > 0)) return
}

describe('every answer', () => {
  it.each([
    ['GET', '/health', 200],
    ['GET', '/nowhere', 404],
    ['GET', '/v1/requests', 200],
    ['POST', '/generate/sdxl', 422],
    ['PUT', '/generate/sdxl', 404],
    ['GET', '/v1/requests/%zz', 400],
    ['GET', `/v1/requests/${'x'.repeat(300)}`, 404],
    ['GET', '/openapi.json', 200],
  ] as const)('%s %s: %i with its headers', async (method, url, status) => {
    const { headers, ...answer } = await call(method, url)
    expect(answer.status).toBe(status)
    expect(headers).toMatchObject({
      'x-user-request-id': expect.stringMatching(/^request-\d+$/),
      'x-process-time': expect.stringMatching(/^\d+\.\d{6}$/),
      'x-content-type-options': 'nosniff',
      'x-frame-options': 'DENY',
      'referrer-policy': 'no-referrer',
      'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
      'cache-control': 'no-store',
      'content-type': 'application/json; charset=utf-8',
    })
    expect(headers['access-control-allow-origin']).toBeUndefined()
  })

  it('has an id of the server, whatever the client says', async () => {
    const { headers } = await call('GET', '/health', { headers: { 'x-user-request-id': 'mine', 'request-id': 'mine' } })
    expect(headers['x-user-request-id']).not.toBe('mine')
  })

  it('is JSON for whatever is accepted: nothing, everything, or something else', async () => {
    for (const accept of ['', '*/*', 'text/html', 'image/png'])
      expect((await call('GET', '/v1/requests', { headers: { accept } })).status).toBe(200)
  })
})

describe('tokens', () => {
  it.each([
    ['none', {}],
    ['an unknown one', { authorization: 'Bearer sepia_unknown' }],
    ['another scheme', { authorization: 'Basic dTpw' }],
    ['rubbish', { authorization: 'Bearer ü ü' }],
    ['an empty header', { authorization: '' }],
  ])('%s: 401 before anything else is looked at', async (_name, headers) => {
    for (const url of ['/v1/requests', '/v1/requests/req_x', '/v1/usage', '/v1/responses/req_x']) {
      const answer = await call('GET', url, { by: null, headers })
      expect(answer).toMatchObject({ status: 401, json: { detail: expect.stringContaining('token') } })
      expect(answer.headers['www-authenticate']).toBe('Bearer')
    }
    const answer = await call('POST', '/generate/sdxl', {
      by: null,
      headers,
      payload: {},
    })
    expect(answer.status).toBe(401)
  })

  it('are no matter for health and documentation', async () => {
    for (const url of ['/health', '/healthcheck']) {
      expect(await call('GET', url, { by: null })).toMatchObject({ status: 200, json: {} })
      expect((await call('HEAD', url, { by: null })).status).toBe(200)
    }
    expect((await call('GET', '/openapi.json', { by: null })).status).toBe(200)
  })

  it('show each account its own requests only', async () => {
    const other = await door.newClient()
    const id = await submit()
    await ended(id)
    for (const [method, url] of [
      ['GET', `/v1/requests/${id}`],
      ['DELETE', `/v1/requests/${id}`],
      ['GET', `/v1/responses/${id}`],
      ['GET', `/v1/requests/${id}/events`],
    ] as const) {
      const theirs = await call(method, url, { by: other })
      const nobodys = await call(method, url.replace(id, 'req_00000000000000000000000000'), { by: other })
      expect(theirs.status).toBe(404)
      expect(theirs.text.replace(id, '')).toBe(nobodys.text.replace('req_00000000000000000000000000', ''))
    }
    expect((await call('GET', '/v1/requests', { by: other })).json).toEqual({ data: [], has_more: false, total: 0 })
  })

  it('are not asked for where everybody is one account, but a foreign name of this machine is refused', async () => {
    const open = await door.open({ everybody: client.account })
    for (const host of ['localhost', 'localhost:8000', '127.0.0.1:1', '[::1]:1'])
      expect((await call('GET', '/v1/requests', { on: open, by: null, headers: { host } })).status).toBe(200)
    for (const host of ['evil.example', 'localhost.evil.example', '192.168.0.1', '127.0.0.1.evil.example'])
      expect(await call('GET', '/v1/requests', { on: open, by: null, headers: { host } })).toMatchObject({
        status: 403,
        json: { detail: expect.stringContaining(host) },
      })
  })
})

describe('a synchronous request', () => {
  it('is answered with its pictures', async () => {
    const { status, json } = await generate({ num_images: 3 })
    expect(status).toBe(200)
    expect(json).toEqual({
      images: [1, 2, 3].map((value, index) => ({
        image_b64: Buffer.from([value, value, value]).toString('base64'),
        removed_for_safety: false,
        seed: 5 + index,
        safety_score: null,
      })),
      prediction_time_ms: expect.any(Number),
    })
  })

  it('leaves no pictures behind', async () => {
    await generate()
    const { jobs } = await door.office.jobs.list(client.account, { limit: 1, offset: 0 })
    const left = async () => Array.fromAsync(door.office.blobs.list(`jobs/${jobs[0].id}/`))
    await expect.poll(left).toEqual([])
    expect(await call('GET', `/v1/responses/${jobs[0].id}`)).toMatchObject({
      status: 404,
      json: { detail: expect.stringContaining('not kept any more') },
    })
  })

  it('is one for every other value of X-OctoAI-Async', async () => {
    for (const value of ['', '0', 'false', 'no', 'yes'])
      expect((await generate({}, { headers: { 'x-octoai-async': value } })).status).toBe(200)
  })

  it('says what was not applied', async () => {
    expect((await generate({ use_refiner: true, enable_safety: true })).headers['x-sepia-not-applied']).toBe(
      'use_refiner, enable_safety',
    )
    expect((await generate()).headers['x-sepia-not-applied']).toBeUndefined()
    expect((await generate()).headers).toMatchObject({ 'x-sepia-precision': 'fp32', 'x-sepia-backend': 'onnxruntime' })
  })

  it('gives the engine the pictures it was sent', async () => {
    const picture = async (background: string) =>
      sharp({ create: { width: 8, height: 8, channels: 3, background } })
        .png()
        .toBuffer()
    const [image, mask] = await Promise.all([picture('red'), picture('white')])
    const { json } = await generate({
      prompt: 'echo',
      init_image: `data:image/png;base64,${image.toString('base64')}`,
      mask_image: mask.toString('base64'),
      num_images: 2,
    })
    const pictures = (json as { images: { image_b64: string }[] }).images.map(({ image_b64 }) => image_b64)
    expect(pictures.sort()).toEqual([image, mask].map((bytes) => bytes.toString('base64')).sort())
  })

  it('is answered in the older shape on /predict', async () => {
    const answer = await call('POST', '/predict', { payload: body({ num_images: 2, sampler: 'DPM++2MKarras' }) })
    expect(answer.json).toEqual({ completion: { image_0: 'AQEB', image_1: 'AgIC' } })
    expect(await call('POST', '/predict', { payload: body({ model: 'dreamshaper' }) })).toMatchObject({
      status: 422,
      json: { detail: [{ loc: ['body', 'model'], type: 'unsupported' }] },
    })
  })
})

describe('an asynchronous request', () => {
  it('is accepted, polled and fetched', async () => {
    const go = newFile()
    const accepted = await generate({ prompt: `wait ${go}` }, { headers: { 'x-octoai-async': 'true' } })
    expect(accepted).toMatchObject({ status: 201, json: { response_id: expect.stringMatching(/^req_/) } })
    const { response_id: id, poll_url: url } = accepted.json as { response_id: string; poll_url: string }
    expect(url).toBe(`http://sepia.test/v1/requests/${id}`)
    await begun(id)
    expect(await call('GET', `/v1/requests/${id}`)).toMatchObject({
      status: 202,
      json: { id, status: 'running', state: 'running', response_url: null, queue_position: null, progress: { of: 2 } },
    })
    const waiting = await submit()
    expect(await call('GET', `/v1/requests/${waiting}`)).toMatchObject({
      status: 202,
      json: { status: 'pending', state: 'queued', queue_position: 1, started_at: null },
    })
    expect(await call('GET', `/v1/responses/${id}`)).toMatchObject({
      status: 404,
      json: { detail: expect.stringContaining('is running and has no answer yet') },
    })
    writeFileSync(go, '')
    await ended(id)
    const done = await call('GET', `/v1/requests/${id}`)
    expect(done).toMatchObject({
      status: 200,
      json: { status: 'completed', response_url: `http://sepia.test/v1/responses/${id}` },
    })
    for (let fetched = 0; fetched < 2; fetched++)
      expect(await call('GET', `/v1/responses/${id}`)).toMatchObject({
        status: 200,
        json: { images: [{ image_b64: 'AQEB', seed: 5 }] },
      })
    await ended(waiting)
  })

  it('has URLs of the origin under which it was asked, where none is configured', async () => {
    const on = await door.open({ publicUrl: null })
    const { json } = await generate({}, { on, headers: { ...asynchronous, host: 'pictures.example:81' } })
    expect(json).toMatchObject({
      poll_url: expect.stringMatching(/^http:\/\/pictures\.example:81\/v1\/requests\/req_/),
    })
  })

  it('is cancelled by DELETE, queued or running, and is then completed with an error', async () => {
    const running = await submit({ prompt: `wait ${newFile()}` })
    await begun(running)
    const queued = await submit()
    for (const id of [queued, running]) {
      // Official clients send a JSON content type here, without a body.
      const cancelled = await call('DELETE', `/v1/requests/${id}`, { headers: { 'content-type': 'application/json' } })
      expect(cancelled).toMatchObject({ status: 200, json: { id, status: 'completed', state: 'cancelled' } })
      expect(await call('GET', `/v1/requests/${id}`)).toMatchObject({ status: 200, json: { status: 'completed' } })
      expect(await call('GET', `/v1/responses/${id}`)).toMatchObject({
        status: 499,
        json: { detail: expect.stringContaining('cancelled') },
      })
    }
    expect(await call('DELETE', `/v1/requests/${running}`)).toMatchObject({ status: 200, json: { state: 'cancelled' } })
  })

  it('that fails is completed, and its answer is the error', async () => {
    const id = await submit({ prompt: 'refuse' })
    await ended(id)
    expect(await call('GET', `/v1/requests/${id}`)).toMatchObject({
      status: 200,
      json: { status: 'completed', state: 'failed' },
    })
    expect(await call('GET', `/v1/responses/${id}`)).toMatchObject({
      status: 422,
      json: { detail: [{ loc: ['body', 'width'], msg: 'width must be a multiple of 8, got 1020', type: 'bad_size' }] },
    })
  })

  it('is in the list of its account, the latest first', async () => {
    const by = await door.newClient()
    const ids = [await submit({}, { by }), await submit({ prompt: 'nan' }, { by }), await submit({}, { by })]
    await Promise.all(ids.map(ended))
    const list = async (query: string) =>
      (await call('GET', `/v1/requests${query}`, { by })).json as { data: { id: string }[] }
    const idsOf = ({ data }: { data: { id: string }[] }) => data.map(({ id }) => id)
    expect(await list('')).toMatchObject({ has_more: false, total: 3 })
    expect(idsOf(await list(''))).toEqual(ids.toReversed())
    expect(await list('?limit=2')).toMatchObject({ has_more: true, total: 3 })
    expect(idsOf(await list('?limit=2&offset=2'))).toEqual([ids[0]])
    expect(idsOf(await list('?state=failed'))).toEqual([ids[1]])
    for (const [query, field] of [
      ['?limit=0', 'limit'],
      ['?limit=101', 'limit'],
      ['?offset=-1', 'offset'],
      ['?state=done', 'state'],
      ['?page=1', 'page'],
    ])
      expect(await call('GET', `/v1/requests${query}`)).toMatchObject({
        status: 422,
        json: { detail: [{ loc: ['query', field] }] },
      })
  })

  it('is followed by events, with previews, to its end', async () => {
    const [before, go] = [newFile(), newFile()]
    await submit({ prompt: `wait ${before}` })
    const id = await submit({ prompt: `wait ${go}` })
    const port = await portOf(server)
    const answer = await fetch(`http://127.0.0.1:${port}/v1/requests/${id}/events`, { headers: client.headers })
    expect(answer.headers.get('content-type')).toBe('text/event-stream')
    let seen = ''
    for await (const chunk of answer.body!.pipeThrough(new TextDecoderStream())) {
      seen += chunk
      // The engine sends one preview as it begins, and only where somebody watches by then.
      if (seen.includes('queue_position')) writeFileSync(before, '')
      if (seen.includes('event: preview')) writeFileSync(go, '')
    }
    const events = Array.from(seen.matchAll(/event: (\w+)\ndata: (.*)\n\n/g), ([, type, data]) => [
      type,
      JSON.parse(data) as unknown,
    ])
    expect(events[0]).toEqual(['state', { state: 'queued', queue_position: 1 }])
    expect(events).toContainEqual(['progress', { step: 1, of: 2 }])
    expect(events).toContainEqual(['preview', { step: 1, jpeg_b64: 'CQk=' }])
    expect(events.at(-1)).toEqual(['end', { state: 'succeeded' }])
  })
})

describe('a connection that closes', () => {
  const open = async (fields: object, headers: Record<string, string> = {}) => {
    const port = await portOf(server)
    const controller = new AbortController()
    const answered = fetch(`http://127.0.0.1:${port}/generate/sdxl`, {
      method: 'POST',
      headers: { ...client.headers, 'content-type': 'application/json', ...headers },
      body: JSON.stringify(body(fields)),
      signal: controller.signal,
    }).then(
      ({ status }) => status,
      () => 'closed',
    )
    return { close: () => controller.abort(), answered }
  }
  const newest = async () => (await door.office.jobs.list(client.account, { limit: 1, offset: 0 })).jobs[0]

  it('cancels its request, which is not charged', async () => {
    const before = await newest()
    const held = async () => (await call('GET', '/v1/usage')).json as { spent_usd: string; held_usd: string }
    const { spent_usd: spent } = await held()
    const { close, answered } = await open({ prompt: `wait ${newFile()}` })
    await expect.poll(async () => (await newest()).id).not.toBe(before.id)
    const { id } = await newest()
    await begun(id)
    close()
    expect(await answered).toBe('closed')
    expect(await ended(id)).toMatchObject({ state: 'cancelled' })
    expect(await held()).toMatchObject({ spent_usd: spent, held_usd: '0.000000' })
  })

  it('leaves a request to others that wait for the same one', async () => {
    const go = newFile()
    const key = { 'idempotency-key': 'shared' }
    const before = await newest()
    const first = await open({ prompt: `wait ${go}` }, key)
    await expect.poll(async () => (await newest()).id).not.toBe(before.id)
    const { id } = await newest()
    await begun(id)
    const second = await open({ prompt: `wait ${go}` }, key)
    const waits = () => door.log.filter((line) => line.includes(id) && line.includes('"waits"')).length
    await expect.poll(waits).toBe(2)
    first.close()
    writeFileSync(go, '')
    await ended(id)
    expect(await second.answered).toBe(200)
  })
})
