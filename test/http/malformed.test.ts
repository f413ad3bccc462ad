// Thousands of requests that are wrong in some way: never a 5xx, never accepted, and each fault has its place. SEPIA_MALFORMED
// sets how many.
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import * as fc from 'fast-check'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { samplerNames } from '../../src/diffusion/samplers.ts'
import { generateRequest, pictureSizes } from '../../src/http/schemas/generate-request.ts'
import { call, openHttpOffice, portOf, type Client, type HttpOffice } from '../support/http-office.ts'

const total = Number(process.env['SEPIA_MALFORMED'] ?? 2000)
// Half of them are bodies, a third is bytes in place of JSON, the rest is bytes in place of HTTP.
const [bodies, texts, streams] = [total / 2, total / 3, total / 6].map(Math.round)
const seed = 20_260_131

let door: HttpOffice
let client: Client
beforeAll(async () => {
  door = await openHttpOffice({ engines: 0 })
  client = await door.newClient()
})
afterAll(() => door[Symbol.asyncDispose]())

const fields = Object.keys(generateRequest.parse({ prompt: '' }))
const wholeNumbers = ['steps', 'num_images', 'width', 'height', 'clip_skip', 'inpaint_full_res_padding']
const numbers = ['cfg_scale', 'strength', 'high_noise_frac', 'controlnet_conditioning_scale', 'controlnet_early_stop']
const flags = ['use_refiner', 'outpainting', 'inpaint_full_res', 'controlnet_preprocess', 'log_prompt', 'enable_safety']
const texts64 = ['init_image', 'mask_image', 'controlnet_image']

/** A field with a value that it never takes. */
const wrongField: fc.Arbitrary<readonly [field: string, value: unknown]> = fc.oneof(
  fc.tuple(
    fc.constantFrom(...wholeNumbers),
    fc.oneof(fc.integer({ max: -1 }), fc.integer({ min: 5000 }), fc.double({ min: 0.01, max: 0.99 })),
  ),
  fc.tuple(
    fc.constantFrom(...numbers),
    fc.oneof(
      fc.double({ max: -0.001, noNaN: true, noDefaultInfinity: true }),
      fc.constantFrom('NaN', 'Infinity', '1,5', '', 'ten'),
    ),
  ),
  fc.tuple(
    fc.constantFrom(...wholeNumbers, ...numbers),
    fc.oneof(
      fc.boolean(),
      fc.array(fc.integer()),
      fc.object(),
      fc.string().filter((value) => !/\d/.test(value)),
    ),
  ),
  fc.tuple(
    fc.constantFrom(...flags),
    fc.oneof(fc.integer({ min: 2 }), fc.array(fc.boolean()), fc.object(), fc.string({ minLength: 6 })),
  ),
  fc.tuple(
    fc.constantFrom(...texts64),
    fc.oneof(
      fc.integer(),
      fc.string().filter((value) => !/^[A-Za-z0-9+/]+=*$/.test(value)),
      fc.base64String().filter((value) => value !== ''),
    ),
  ),
  fc.tuple(
    fc.constant('sampler'),
    fc.string().filter((value) => !(samplerNames as readonly string[]).includes(value)),
  ),
  fc.tuple(
    fc.constant('seed'),
    fc.oneof(
      fc.integer({ max: -1 }),
      fc.array(fc.integer(), { minLength: 2 }),
      fc.constantFrom('x', true, {}, 2 ** 32),
    ),
  ),
  fc.tuple(
    fc.constantFrom('loras', 'textual_inversions', 'transfer_images'),
    fc.oneof(fc.integer(), fc.string(), fc.array(fc.anything(), { minLength: 1 })),
  ),
  fc.tuple(
    fc.constantFrom('prompt', 'negative_prompt', 'prompt_2'),
    fc.oneof(fc.integer(), fc.constantFrom('\0', '\ud800', 'x'.repeat(10_001)), fc.array(fc.string())),
  ),
  fc.tuple(
    fc.string({ unit: 'binary' }).filter((name) => !fields.includes(name) && name !== '__proto__'),
    fc.jsonValue(),
  ),
)

/** A request that is right but for one field. */
const wrongBody = fc.record({
  // Such keys are refused before fields are looked at.
  wrong: wrongField.filter((wrong) => !/__proto__|"constructor"/.test(JSON.stringify(wrong))),
  rest: fc.record(
    {
      steps: fc.oneof(fc.integer({ min: 5, max: 50 }), fc.integer({ min: 5, max: 50 }).map(String)),
      cfg_scale: fc.double({ min: 0.1, max: 50, noNaN: true }),
      sampler: fc.constantFrom(...samplerNames),
      use_refiner: fc.constantFrom(true, false, 'True', 'no', null),
      seed: fc.option(fc.integer({ min: 0, max: 2 ** 32 - 1 })),
      size: fc.constantFrom(...pictureSizes),
      negative_prompt: fc.option(fc.string()),
    },
    { requiredKeys: ['size'] },
  ),
})

it('a request with one wrong field: a 422 that names it', { timeout: 600_000 }, async () => {
  const property = fc.asyncProperty(wrongBody, async ({ wrong: [field, value], rest: { size, ...rest } }) => {
    // One that is accepted by mistake is not waited for.
    const headers = { 'x-octoai-async': '1' }
    const payload = { prompt: 'a cat', width: size[0], height: size[1], ...rest, [field]: value }
    const answer = await call(door.server, 'POST', '/generate/sdxl', { by: client, payload, headers })
    expect(answer.status).toBe(422)
    const { detail } = answer.json as { detail: { loc: unknown[]; msg: string; type: string }[] }
    expect(detail.map(({ loc }) => loc[1])).toContain(field)
    for (const { loc, msg, type } of detail) {
      expect(loc[0]).toBe('body')
      expect(msg).toContain(loc[1])
      expect(type).toMatch(/^[a-z_0-9]+$/)
    }
  })
  await fc.assert(property, { numRuns: bodies, seed })
})

it('bytes in place of JSON: a 4xx with a detail', { timeout: 600_000 }, async () => {
  const json = fc.jsonValue().map((value) => JSON.stringify(value))
  const broken = fc
    .tuple(json, fc.nat(), fc.string())
    .map(([whole, at, more]) => whole.slice(0, at % (whole.length + 1)) + more)
  const bytes = fc.oneof(json, broken, fc.string({ unit: 'binary' })).map((value) => Buffer.from(value))
  const anything = fc.oneof(
    bytes,
    fc.uint8Array({ maxLength: 2000 }).map((raw) => Buffer.from(raw)),
  )
  const type = fc.oneof(
    { weight: 4, arbitrary: fc.constant('application/json') },
    fc.string(),
    fc.constantFrom('text/plain', 'application/json; charset=latin1'),
  )
  const property = fc.asyncProperty(anything, type, async (payload, contentType) => {
    const answer = await door.server.inject({
      method: 'POST',
      url: '/generate/sdxl',
      headers: {
        ...client.headers,
        'content-type': contentType.replaceAll(/[^\t\x20-\x7e]/g, ''),
        'x-octoai-async': '1',
      },
      payload,
    })
    expect([400, 413, 415, 422]).toContain(answer.statusCode)
    expect(answer.json()).toEqual({ detail: expect.anything() })
  })
  await fc.assert(property, { numRuns: texts, seed })
})

it('bytes in place of HTTP: a 4xx, or nothing, and the server goes on', { timeout: 600_000 }, async () => {
  const port = await portOf(door.server)
  const line = fc.oneof(
    fc.constantFrom(
      'GET / HTTP/1.1',
      'POST /generate/sdxl HTTP/1.1',
      'GET /v1/requests/%00 HTTP/1.1',
      'GET //../%2e%2e/etc HTTP/1.0',
      'DELETE * HTTP/1.1',
      'POST /predict HTTP/2.0',
    ),
    fc.string({ unit: 'binary', maxLength: 200 }),
  )
  const header = fc.oneof(
    fc.constantFrom(
      'host: x',
      'content-length: 99999999999',
      'content-length: x',
      'transfer-encoding: chunked',
      'transfer-encoding: gzip',
      'expect: 200-ok',
      'connection: upgrade\r\nupgrade: websocket',
      'content-type: application/json',
      `authorization: ${client.headers.authorization}`,
    ),
    fc.string({ unit: 'binary', maxLength: 100 }),
  )
  const request = fc
    .tuple(line, fc.array(header, { maxLength: 8 }), fc.string({ unit: 'binary', maxLength: 300 }))
    .map(([first, headers, rest]) => Buffer.from([first, ...headers, '', rest].join('\r\n')))
  let refused = 0
  const property = fc.asyncProperty(request, async (bytes) => {
    const socket = connect(port)
    socket.on('error', () => {})
    socket.end(bytes)
    // A server that has answered with an error may end the connection while bytes are on their way.
    const answer = await text(socket).catch((error: NodeJS.ErrnoException) => error.code ?? 'none')
    if (answer.startsWith('HTTP/1.1 4')) refused++
    expect(answer).toMatch(/^(HTTP\/1\.1 (2|3|4)\d\d |ECONNRESET$|EPIPE$|$)/)
  })
  await fc.assert(property, { numRuns: streams, seed })
  expect(refused).toBeGreaterThan(streams / 2)
  expect((await call(door.server, 'GET', '/health')).status).toBe(200)
})

it('none of them was accepted', async () => {
  expect(await door.office.jobs.list(client.account, { limit: 1, offset: 0 })).toEqual({ jobs: [], total: 0 })
})
