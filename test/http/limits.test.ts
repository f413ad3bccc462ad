// What the door keeps out, and how it says so: bodies, limits, money, repetition, browsers, and what the log does not tell.
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { HttpServer } from '../../src/http/context.ts'
import { parseWordList } from '../../src/service/accounts/word-list.ts'
import { credit } from '../../src/service/billing/ledger.ts'
import {
  call as callOn,
  openHttpOffice,
  portOf,
  type Call,
  type Client,
  type HttpOffice,
} from '../support/http-office.ts'

const queueLength = 6
let door: HttpOffice
let server: HttpServer
let client: Client

beforeAll(async () => {
  door = await openHttpOffice({ wordList: parseWordList('forbidden fruit\n', 'test'), maxQueueLength: queueLength })
  server = door.server
  client = await door.newClient()
})
afterAll(() => door[Symbol.asyncDispose]())

const call = (method: Parameters<typeof callOn>[1], url: string, given: Call & { on?: HttpServer } = {}) =>
  callOn(given.on ?? server, method, url, { by: client, ...given })
const order = { prompt: 'pictures', steps: 30, seed: 5, use_refiner: false }
const generate = (fields: object = {}, given: Call & { on?: HttpServer } = {}) =>
  call('POST', '/generate/sdxl', { payload: { ...order, ...fields }, ...given })
const asynchronous = { 'x-octoai-async': '1' }
const jsonType = { 'content-type': 'application/json' }

describe('the body', () => {
  it.each([
    ['', 'is missing'],
    ['{', 'is no valid JSON'],
    ['{"prompt":"a"', 'is no valid JSON'],
    ['{"prompt":"a","__proto__":{}}', 'is no valid JSON'],
    ['{"prompt":"a","constructor":{"prototype":{}}}', 'is no valid JSON'],
    ['[1', 'is no valid JSON'],
    ['null', 'is missing'],
    ['"text"', 'must be a JSON object'],
    ['['.repeat(200_000), 'is no valid JSON'],
    [`${'['.repeat(100_000)}${']'.repeat(100_000)}`, 'must be a JSON object'],
  ])('%.40s: the body %s', async (payload, words) => {
    const answer = await call('POST', '/generate/sdxl', { payload, headers: jsonType })
    expect(answer).toMatchObject({
      status: 422,
      json: { detail: [{ loc: ['body'], msg: expect.stringContaining(words) }] },
    })
  })

  it('is UTF-8', async () => {
    const answer = await server.inject({
      method: 'POST',
      url: '/generate/sdxl',
      headers: { ...client.headers, ...jsonType },
      payload: Buffer.concat([Buffer.from('{"prompt":"'), Buffer.of(0xff, 0xfe), Buffer.from('"}')]),
    })
    expect(answer.statusCode).toBe(422)
    expect(answer.json()).toMatchObject({ detail: [{ loc: ['body'], msg: expect.stringContaining('UTF-8') }] })
  })

  it.each([
    'text/plain',
    'application/x-www-form-urlencoded',
    'multipart/form-data; boundary=x',
    'application/jsonp',
    '?',
  ])('is not %s, which a page of another site can send', async (type) => {
    const answer = await call('POST', '/generate/sdxl', {
      payload: JSON.stringify(order),
      headers: { 'content-type': type },
    })
    expect(answer).toMatchObject({ status: 415, json: { detail: expect.stringContaining('application/json') } })
  })

  it('has a content type with or without a charset', async () => {
    for (const type of ['application/json', 'application/json; charset=utf-8', 'Application/JSON'])
      expect(
        (await call('POST', '/generate/sdxl', { payload: JSON.stringify(order), headers: { 'content-type': type } }))
          .status,
      ).toBe(200)
  })

  it('of 64 MiB is read, and a larger one refused by its length', async () => {
    const picture = 'A'.repeat(31 * 2 ** 20)
    const large = await generate({ init_image: picture, mask_image: picture })
    expect(large).toMatchObject({
      status: 422,
      json: { detail: [{ loc: ['body', 'init_image'] }, { loc: ['body', 'mask_image'] }] },
    })
    const tooLarge = await generate({ init_image: picture, mask_image: picture, prompt_2: 'A'.repeat(2 ** 21) })
    expect(tooLarge).toMatchObject({ status: 413, json: { detail: expect.stringContaining('64 MiB') } })
  })

  it('has 10 MB when the request is asynchronous', async () => {
    const { status, json } = await generate({ init_image: 'A'.repeat(10_000_000) }, { headers: asynchronous })
    expect([status, json]).toEqual([
      413,
      { detail: 'the body of an asynchronous request may have 10 MB, this one has 10.0 MB' },
    ])
  })

  it('is cut off at its cap when it comes without a length', async () => {
    const send = async (headers: string[], mebibytes: number): Promise<string> => {
      const socket = connect(await portOf(server))
      socket.on('error', () => {})
      socket.write(`POST /generate/sdxl HTTP/1.1\r\nhost: x\r\nauthorization: ${client.headers.authorization}\r\n`)
      socket.write(
        `content-type: application/json\r\ntransfer-encoding: chunked\r\nconnection: close\r\n${headers.join('')}\r\n`,
      )
      const piece = `100000\r\n${'A'.repeat(2 ** 20)}\r\n`
      for (let sent = 0; sent < mebibytes; sent++) socket.write(piece)
      socket.end('0\r\n\r\n')
      return text(socket)
    }
    expect(await send([], 65)).toMatch(/^HTTP\/1\.1 413 /)
    expect(await send(['x-octoai-async: 1\r\n'], 10)).toMatch(/^HTTP\/1\.1 413 /)
  })
})

describe('what is no HTTP', () => {
  const raw = async (bytes: string): Promise<string> => {
    const socket = connect(await portOf(server))
    socket.end(bytes)
    return text(socket)
  }
  it.each([
    ['GARBAGE\r\n\r\n', 400],
    ['GET / HTTP/9.9\r\n\r\n', 400],
    [`GET /health HTTP/1.1\r\nhost: x\r\nx-long: ${'a'.repeat(20_000)}\r\n\r\n`, 431],
    ['POST /generate/sdxl HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n', 400],
    ['POST /generate/sdxl HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n', 400],
  ])('%.40j: %i, and the connection ends', async (bytes, status) => {
    const answer = await raw(bytes)
    expect(answer).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `))
    expect(answer).toMatch(/\r\n\r\n\{"detail":"[^"]+"\}$/)
  })
})

describe('what is not there', () => {
  it.each([
    ['GET', '/v1/assets/octoai%3Acanny_sdxl', 'there is no asset "octoai:canny_sdxl"'],
    ['POST', '/v1/tune', 'fine-tuning is not there yet'],
    ['GET', '/v1/tunes?limit=2', 'fine-tuning is not there yet'],
    ['POST', '/generate/controlnet-sdxl', 'ControlNet is not there yet'],
    ['POST', '/generate/sd', 'there is no POST /generate/sd'],
    ['POST', '/v1/assetsx', 'there is no POST /v1/assetsx'],
    ['GET', '/generate/sdxl', 'there is no GET /generate/sdxl'],
  ] as const)('%s %s: 404 that says so', async (method, url, words) => {
    const answer = await call(method, url, method === 'POST' ? { payload: order } : {})
    expect(answer).toMatchObject({ status: 404, json: { detail: expect.stringContaining(words) } })
  })

  it.each([['controlnet', 'canny']])('%s: 422 that names the field', async (field, value) => {
    expect(await generate({ [field]: value })).toMatchObject({
      status: 422,
      json: {
        detail: [{ loc: ['body', field], msg: expect.stringContaining('is not there yet'), type: 'unsupported' }],
      },
    })
  })
})

describe('errors of jobs', () => {
  it.each([
    ['refuse', 422, [{ loc: ['body', 'width'], msg: 'width must be a multiple of 8, got 1020', type: 'bad_size' }]],
    ['nan', 422, [{ loc: ['body'], msg: expect.stringContaining('NaN'), type: 'not_finite' }]],
    ['crash', 422, [{ loc: ['body'], msg: expect.stringContaining('died'), type: 'engine_crashed' }]],
    ['oops', 500, expect.stringContaining('X-User-Request-ID')],
  ])('%s: %i, without internals', async (prompt, status, detail) => {
    const answer = await generate({ prompt })
    expect(answer).toMatchObject({ status, json: { detail } })
    expect(answer.text).not.toMatch(/undefined is|node:|\/src\/|SIGABRT/)
  })

  it('a prompt with a word of the operator: 400 with message and detail', async () => {
    const answer = await generate({ prompt: 'a Forbidden  FRUIT on a table' })
    expect(answer.status).toBe(400)
    expect(answer.json).toEqual({ message: expect.any(String), detail: expect.any(String) })
  })
})

describe('limits of an account', () => {
  it('requests a minute: 429 with Retry-After, for pictures only', async () => {
    const by = await door.newClient({ requestsPerMinute: 2 })
    expect([(await generate({}, { by })).status, (await generate({ steps: 0 }, { by })).status]).toEqual([200, 422])
    const refused = await generate({}, { by })
    expect(refused).toMatchObject({ status: 429, json: { detail: expect.any(String) } })
    expect(Number(refused.headers['retry-after'])).toBeGreaterThanOrEqual(1)
    expect((await call('GET', '/v1/requests', { by })).status).toBe(200)
  })

  it('credit: 402 when it does not cover the price, and the use is told', async () => {
    const by = await door.newClient({ prepaid: true })
    expect(await generate({}, { by })).toMatchObject({ status: 402, json: { detail: expect.any(String) } })
    await credit(door.office.database.db, by.account, 9_000n, 'test')
    expect((await generate({ num_images: 2 }, { by })).status).toBe(200)
    expect((await generate({}, { by })).status).toBe(402)
    expect((await call('GET', '/v1/usage', { by })).json).toEqual({
      account: by.account.name,
      from: null,
      to: null,
      images: 2,
      spent_usd: '0.008000',
      storage_usd: '0.000000',
      stored_bytes: 0,
      held_usd: '0.000000',
      balance_usd: '0.001000',
    })
    const inTime = async (query: string) => (await call('GET', `/v1/usage?${query}`, { by })).json
    expect(await inTime('from=2020-01-01T00:00:00Z')).toMatchObject({ from: '2020-01-01T00:00:00.000Z', images: 2 })
    expect(await inTime('to=2020-01-01T00:00:00%2B02:00')).toMatchObject({ to: '2019-12-31T22:00:00.000Z', images: 0 })
    for (const query of ['from=yesterday', 'to=5', 'since=2020-01-01T00:00:00Z'])
      expect(await call('GET', `/v1/usage?${query}`, { by })).toMatchObject({
        status: 422,
        json: { detail: [{ loc: ['query', query.split('=')[0]] }] },
      })
  })

  it('a full queue: 503 with Retry-After', async () => {
    const by = await door.newClient()
    const go = `${door.folder}/never`
    const ask = () => generate({ prompt: `wait ${go}` }, { by, headers: asynchronous })
    const ids: string[] = []
    let answer = await ask()
    for (; answer.status === 201; answer = await ask()) ids.push((answer.json as { response_id: string }).response_id)
    // One runs.
    expect(ids).toHaveLength(1 + queueLength)
    expect(answer).toMatchObject({ status: 503, json: { detail: expect.any(String) } })
    expect(Number(answer.headers['retry-after'])).toBeGreaterThanOrEqual(1)
    for (const id of ids) expect((await call('DELETE', `/v1/requests/${id}`, { by })).status).toBe(200)
  })
})

describe('Idempotency-Key', () => {
  const key = (value: string) => ({ ...asynchronous, 'idempotency-key': value })
  const idOf = ({ json }: { json: unknown }) => (json as { response_id: string }).response_id

  it('makes one request of several, also at once and however it is spelled', async () => {
    const answers = await Promise.all([
      generate({}, { headers: key('a') }),
      generate({}, { headers: key('a') }),
      generate({ steps: '30', sampler: null }, { headers: key('a') }),
      call('POST', '/generate/sdxl', {
        payload: '{"seed":5,"use_refiner":"no","steps":30,"prompt":"pictures"}',
        headers: { ...jsonType, ...key('a') },
      }),
    ])
    expect(answers.map(({ status }) => status)).toEqual([201, 201, 201, 201])
    expect(new Set(answers.map(idOf)).size).toBe(1)
    expect(idOf(await generate({}, { headers: key('b') }))).not.toBe(idOf(answers[0]))
    const other = await door.newClient()
    expect(idOf(await generate({}, { by: other, headers: key('a') }))).not.toBe(idOf(answers[0]))
  })

  it('with another body or another path is a 422', async () => {
    expect((await generate({}, { headers: key('c') })).status).toBe(201)
    for (const answer of [
      await generate({ steps: 31 }, { headers: key('c') }),
      await call('POST', '/predict', { payload: { ...order, image_encoding: 'jpeg' }, headers: key('c') }),
    ])
      expect(answer).toMatchObject({
        status: 422,
        json: { detail: [{ loc: ['header', 'Idempotency-Key'], type: 'idempotency_conflict' }] },
      })
  })

  it('gives a synchronous answer again', async () => {
    const [first, second] = [
      await generate({}, { headers: { 'idempotency-key': 'd' } }),
      await generate({}, { headers: { 'idempotency-key': 'd' } }),
    ]
    expect(first.status).toBe(200)
    expect(second.text).toBe(first.text)
  })

  it.each(['a b', 'é', 'x'.repeat(256)])('%.10j is none', async (value) => {
    const answer = await generate({}, { headers: { 'idempotency-key': value } })
    expect(answer).toMatchObject({ status: 422, json: { detail: [{ loc: ['header', 'Idempotency-Key'] }] } })
  })
})

describe('browsers on other origins', () => {
  const origin = 'https://page.example'
  const question = {
    origin,
    'access-control-request-method': 'POST',
    'access-control-request-headers': 'authorization',
  }

  it('are told nothing unless they are named', async () => {
    for (const [method, headers] of [
      ['GET', { origin }],
      ['OPTIONS', question],
    ] as const) {
      const answer = await call(method, '/health', { by: null, headers })
      expect(Object.keys(answer.headers).filter((name) => name.startsWith('access-control'))).toEqual([])
    }
  })

  it('may use the API when they are, without credentials', async () => {
    const on = await door.open({ corsOrigins: [origin] })
    const asked = await call('OPTIONS', '/generate/sdxl', { on, by: null, headers: question })
    expect(asked.status).toBe(204)
    expect(asked.headers).toMatchObject({
      'access-control-allow-origin': origin,
      'access-control-allow-methods': 'GET, POST, DELETE',
      'access-control-allow-headers': expect.stringContaining('Authorization'),
      vary: 'Origin',
    })
    const answer = await generate({}, { on, headers: { origin } })
    expect(answer.status).toBe(200)
    expect(answer.headers['access-control-allow-origin']).toBe(origin)
    expect(answer.headers['access-control-allow-credentials']).toBeUndefined()
    const other = await call('GET', '/health', { on, headers: { origin: 'https://evil.example' } })
    expect(other.headers['access-control-allow-origin']).toBeUndefined()
    expect(other.headers['vary']).toBe('Origin')
  })
})

describe('metrics', () => {
  it('are for tokens of the account "default"', async () => {
    expect((await call('GET', '/metrics', { by: null })).status).toBe(401)
    expect((await call('GET', '/metrics')).status).toBe(403)
    const operator = await door.newClient({ name: 'default' })
    const answer = await call('GET', '/metrics', { by: operator })
    expect(answer.status).toBe(200)
    expect(String(answer.headers['content-type'])).toMatch(/^text\/plain/)
    expect(answer.text).toMatch(/^sepia_jobs_ended_total\{.*\} \d+$/m)
  })

  it('or for the one that is configured', async () => {
    const on = await door.open({ metricsToken: 'secret' })
    expect((await call('GET', '/metrics', { on })).status).toBe(401)
    expect((await call('GET', '/metrics', { on, by: null })).status).toBe(401)
    const headers = { authorization: 'Bearer secret' }
    expect((await call('GET', '/metrics', { on, by: null, headers })).status).toBe(200)
  })
})

it('a server that stops refuses new pictures and answers the rest', async () => {
  const on = await door.open({ stopping: AbortSignal.abort() })
  const refused = await generate({}, { on })
  expect(refused).toMatchObject({ status: 503, json: { detail: 'the server is stopping' } })
  expect(refused.headers).toMatchObject({ 'retry-after': '5', connection: 'close' })
  expect((await call('GET', '/v1/requests', { on })).status).toBe(200)
})

it('the log has one line an answer, and neither tokens nor prompts nor pictures', async () => {
  const before = door.log.length
  await generate({ prompt: 'pictures secretprompt', negative_prompt: 'secretnegative' })
  await generate({ prompt: 'refuse secretprompt' })
  await generate({ prompt: 'oops secretprompt' })
  await generate({ prompt: 5, init_image: 'secretpicture' })
  await call('GET', '/v1/requests', { headers: { authorization: 'Bearer sepia_secrettoken' } })
  const lines = door.log.slice(before).map((line) => JSON.parse(line) as Record<string, unknown>)
  expect(lines.filter(({ msg }) => msg === 'answered')).toEqual(
    [200, 422, 500, 422, 401].map((status) =>
      expect.objectContaining({ status, ms: expect.any(Number), requestId: expect.stringMatching(/^request-/) }),
    ),
  )
  const everything = [...door.log, ...door.office.log.map((line) => JSON.stringify(line))].join('\n')
  expect(everything).not.toMatch(/secret(prompt|negative|picture|token)/)
  expect(everything).not.toContain(client.headers.authorization.slice('Bearer '.length))
})
