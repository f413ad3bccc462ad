// OctoAI's official clients, unmodified, against a real server process. What they did against the original must work.
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { Client } from '@octoai/client'
import { OctoAIClient, OctoAIError, OctoAITimeoutError } from '@octoai/sdk'
import sharp from 'sharp'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { pythonTool } from '../support/python-tools.ts'
import { startServer, type RunningServer } from '../support/running-server.ts'

let server: RunningServer
/** A token of an account that may send no requests. */
let limitedToken: string

beforeAll(async () => {
  server = await startServer()
  await server.administer('accounts', 'create', 'limited', '--requests-per-minute', '0')
  const made = (await server.administer('tokens', 'create', '--account', 'limited')) as { token: string }
  limitedToken = made.token
})
afterAll(() => server[Symbol.asyncDispose]())

const prompt = 'a red apple'
const picture = async (base64: string) => sharp(Buffer.from(base64, 'base64')).metadata()
/** Where the log is now, counted in answers: after that of a request made for this. */
async function placeInLog(): Promise<number> {
  const answer = await fetch(`${server.url}/v1/usage`, { headers: { authorization: `Bearer ${server.token}` } })
  const id = answer.headers.get('x-user-request-id')
  const place = () => answersInLog().findIndex(({ requestId }) => requestId === id)
  await expect.poll(place).toBeGreaterThan(-1)
  return place()
}
const answersInLog = () => server.log().filter(({ msg }) => msg === 'answered')

/** Statuses of the answers that were given while `action` went on. */
async function answeredDuring(action: () => Promise<unknown>): Promise<unknown[]> {
  const before = await placeInLog()
  await action()
  const after = await placeInLog()
  return answersInLog()
    .slice(before + 1, after)
    .map(({ status }) => status)
}

describe('npm @octoai/sdk 1.11.0', () => {
  const sdk = (token: string | undefined = server.token, base = server.url) =>
    new OctoAIClient({ apiKey: token, environment: { default: base, imageGen: base, textGen: base } })

  it('makes pictures', async () => {
    const { images, predictionTimeMs } = await sdk().imageGen.generateSdxl({
      prompt,
      steps: 2,
      numImages: 2,
      seed: 4294967295,
      sampler: 'K_EULER',
      stylePreset: 'base',
      width: 1152,
      height: 896,
      imageEncoding: 'png',
      useRefiner: false,
    })
    expect(predictionTimeMs).toBeGreaterThan(0)
    expect(images.map(({ seed, removedForSafety }) => [seed, removedForSafety])).toEqual([
      [4294967295, false],
      [0, false],
    ])
    for (const { imageB64 } of images)
      expect(await picture(imageB64!)).toMatchObject({ format: 'png', width: 1152, height: 896 })
  })

  it('gets the same picture from the same seed, alone or among others', async () => {
    const make = (seed: number, numImages: number) => sdk().imageGen.generateSdxl({ prompt, steps: 2, seed, numImages })
    const [first, alone] = [await make(7, 2), await make(8, 1)]
    expect(first.images[1]).toEqual(alone.images[0])
    expect(first.images[0].imageB64).not.toBe(alone.images[0].imageB64)
  })

  it('has its class of errors for a wrong field, and asks once', async () => {
    const statuses = await answeredDuring(() =>
      expect(sdk().imageGen.generateSdxl({ prompt, steps: 0 })).rejects.toMatchObject({
        statusCode: 422,
        body: {
          detail: [
            { loc: ['body', 'steps'], msg: 'steps must be a whole number from 1 to 200, got 0', type: 'too_small' },
          ],
        },
      }),
    )
    expect(statuses).toEqual([422])
  })

  it('tells a missing and an unknown token', async () => {
    for (const token of ['', 'sepia_unknown'])
      await expect(sdk(token).imageGen.generateSdxl({ prompt })).rejects.toMatchObject({
        statusCode: 401,
        body: { detail: expect.any(String) },
      })
  })

  it('repeats what may succeed later, twice and at once', async () => {
    const statuses = await answeredDuring(() =>
      expect(sdk(limitedToken).imageGen.generateSdxl({ prompt })).rejects.toMatchObject({ statusCode: 429 }),
    )
    expect(statuses).toEqual([429, 429, 429])
  })

  it('asks once for what is not there yet', async () => {
    const { imageGen, fineTuning } = sdk()
    const statuses = await answeredDuring(async () => {
      await expect(imageGen.generateControlnetSdxl({ prompt })).rejects.toMatchObject({ statusCode: 404 })
      await expect(fineTuning.list()).rejects.toBeInstanceOf(OctoAIError)
      await expect(imageGen.generateSdxl({ prompt, loras: { 'octoai:add-detail': 0.5 } })).rejects.toMatchObject({
        statusCode: 404,
        body: { detail: 'there is no asset "octoai:add-detail"' },
      })
    })
    expect(statuses).toEqual([404, 404, 404])
  })

  it('gives up after its time, and nothing goes on', async () => {
    const late = sdk().imageGen.generateSdxl(
      { prompt, steps: 200, useRefiner: false },
      { timeoutInSeconds: 1, maxRetries: 0 },
    )
    await expect(late).rejects.toBeInstanceOf(OctoAITimeoutError)
    await expect
      .poll(() => server.log().filter(({ state }) => state === 'cancelled').length, { timeout: 20_000 })
      .toBe(1)
  })
})

describe('npm @octoai/client 0.5.2', () => {
  const client = (token = server.token) => new Client(token)
  const endpoint = () => `${server.url}/generate/sdxl`
  type Answer = { images: { image_b64: string; seed: number }[] }

  it('makes pictures', async () => {
    const answer = (await client().infer(endpoint(), {
      prompt,
      steps: '2',
      seed: '2138732363',
      use_refiner: 'False',
    })) as Answer
    expect(answer.images[0].seed).toBe(2138732363)
    expect(await picture(answer.images[0].image_b64)).toMatchObject({ format: 'jpeg', width: 1024, height: 1024 })
  })

  it('makes pictures in the background', async () => {
    const octo = client()
    const future = await octo.inferAsync(endpoint(), { prompt, steps: 2, seed: 7 })
    expect(future).toEqual({
      response_id: expect.stringMatching(/^req_/),
      poll_url: `${server.url}/v1/requests/${future.response_id}`,
    })
    await expect.poll(() => octo.isFutureReady(future), { timeout: 60_000 }).toBe(true)
    const answer = (await octo.getFutureResult(future)) as Answer
    expect(await picture(answer.images[0].image_b64)).toMatchObject({ format: 'jpeg' })
    const direct = (await octo.infer(endpoint(), { prompt, steps: 2, seed: 7 })) as Answer
    expect(answer.images).toEqual(direct.images)
  })

  it('is told of a background failure when it fetches the result', async () => {
    const octo = client()
    const inputs = { prompt: Array.from({ length: 700 }, () => 'apple').join(' '), steps: 2 }
    const future = await octo.inferAsync(endpoint(), inputs)
    await expect.poll(() => octo.isFutureReady(future), { timeout: 60_000 }).toBe(true)
    await expect(octo.getFutureResult(future)).rejects.toMatchObject({
      name: 'OctoAIClientError',
      message: expect.stringMatching(/^Error: 422 .*"loc":\["body","prompt"\].*\(request_id: [0-9a-f-]{36}\)$/),
    })
  })

  it('has its classes of errors', async () => {
    await expect(client().infer(endpoint(), { prompt, steps: 0 })).rejects.toMatchObject({
      name: 'OctoAIClientError',
      message: expect.stringMatching(/^Error: 422 .*steps must be/),
    })
    await expect(client('sepia_unknown').infer(endpoint(), { prompt })).rejects.toThrow(/^Error: 401 /)
    await expect(client(limitedToken).infer(endpoint(), { prompt })).rejects.toThrow(/^Rate limit reached error: 429 /)
    await expect(client().infer(`${server.url}/v1/nowhere`, { prompt })).rejects.toThrow(/^Error: 404 /)
  })

  it('asks for the health of the server', async () => {
    for (const path of ['/health', '/healthcheck']) expect(await client().healthCheck(server.url + path)).toBe(200)
  })
})

it('PyPI octoai 1.11.0: pictures at once and in the background, errors, health', async () => {
  const script = fileURLToPath(new URL('python/octoai_client.py', import.meta.url))
  const { stdout } = await promisify(execFile)(pythonTool('python'), [script, server.url, server.token, limitedToken])
  expect(JSON.parse(stdout)).toEqual({
    direct: { seeds: [7, 8], formats: ['PNG', 'PNG'] },
    same: true,
    validation: { class: 'UnprocessableEntityError', status: 422, loc: ['body', 'steps'] },
    unauthorized: { class: 'ApiError', status: 401 },
    limited: { class: 'ApiError', status: 429 },
    inferred: { seed: 7 },
    future: { ready: true, seed: 7, same: true },
    failed: 422,
    health: 200,
  })
})

describe('plain requests of the contract', () => {
  const post = async (path: string, body: object, headers: Record<string, string> = {}) => {
    const answer = await fetch(server.url + path, {
      method: 'POST',
      headers: { authorization: `Bearer ${server.token}`, 'content-type': 'application/json', ...headers },
      body: JSON.stringify(body),
    })
    return { status: answer.status, headers: answer.headers, json: (await answer.json()) as Record<string, unknown> }
  }
  const solid = async (background: string) =>
    (
      await sharp({ create: { width: 64, height: 64, channels: 3, background } })
        .png()
        .toBuffer()
    ).toString('base64')

  it.each([
    ['lax values', { use_refiner: 'False', outpainting: 'false', seed: '2138732363', steps: '2' }],
    [
      'nulls',
      { prompt_2: null, negative_prompt: null, width: null, cfg_scale: null, seed: null, style_preset: null, steps: 2 },
    ],
    ['empty assets', { checkpoint: null, loras: {}, textual_inversions: null, transfer_images: null, steps: 2 }],
    ['a strength without a picture', { strength: 0.8, steps: 1 }],
    ['a style', { style_preset: 'Pokémon', steps: 2 }],
    ['no style', { style_preset: 'None', steps: 2 }],
    ['weights', { prompt: '(x:1.5) ((y)) \\(z\\) [w] (', negative_prompt: '(blurry)', steps: 2 }],
    [
      'flags of old programs',
      { enable_safety: true, force_asset_download: true, force_asset_gpu_copy: false, steps: 1 },
    ],
    ['a list of seeds', { seed: [1, null], num_images: 2, steps: 1 }],
    ['another size', { width: 640, height: 1536, steps: 1 }],
    ['a premium sampler', { sampler: 'DPM_2_ANCESTRAL', steps: 2 }],
  ])('%s: 200', async (_name, fields) => {
    expect(await post('/generate/sdxl', { prompt, ...fields })).toMatchObject({ status: 200 })
  })

  it('a picture to change, to inpaint, to continue', async () => {
    const [red, white] = [await solid('red'), await solid('white')]
    const modes = [
      { init_image: `data:image/png;base64,${red}`, strength: 0.5 },
      { init_image: red, mask_image: white },
      { init_image: red, mask_image: white, inpaint_full_res: true },
      { init_image: red, mask_image: white, outpainting: 'true' },
    ]
    for (const fields of modes)
      expect(await post('/generate/sdxl', { prompt, steps: 2, ...fields })).toMatchObject({ status: 200 })
  })

  it.each([
    ['controlnet', 'octoai:canny_sdxl'],
    ['controlnet_image', 'AAAA'],
    ['transfer_images', { luis: ['AAAA'] }],
  ])('%s: 422 that says that it is not there yet', async (field, value) => {
    expect(await post('/generate/sdxl', { prompt, [field]: value })).toMatchObject({
      status: 422,
      json: { detail: [{ loc: ['body', field], type: 'unsupported', msg: expect.stringContaining('not there yet') }] },
    })
  })

  it.each([
    ['checkpoint', 'octoai:lightning_sdxl'],
    ['loras', { 'octoai:add-detail': 0.3, mine: -1.5 }],
    ['textual_inversions', { 'octoai:NegativeXL': '“neg”' }],
    ['vae', 'mine'],
  ])('%s: 404 that names what there is not', async (field, value) => {
    const name = typeof value === 'string' ? value : Object.keys(value)[0]
    expect(await post('/generate/sdxl', { prompt, [field]: value })).toMatchObject({
      status: 404,
      json: { detail: `there is no asset "${name}"` },
    })
  })

  it('the legacy endpoint', async () => {
    const { status, json } = await post('/predict', { prompt, steps: 2, sampler: 'DPMSolverMultistep', num_images: 2 })
    expect([status, Object.keys(json)]).toEqual([200, ['completion']])
    const completion = json['completion'] as Record<string, string>
    expect(Object.keys(completion)).toEqual(['image_0', 'image_1'])
    expect(await picture(completion['image_1'])).toMatchObject({ format: 'png' })
  })

  it('what has no effect here is told in a header', async () => {
    const { headers } = await post('/generate/sdxl', { prompt, steps: 1, enable_safety: true })
    expect(headers.get('x-sepia-not-applied')).toBe('use_refiner, enable_safety')
  })
})
