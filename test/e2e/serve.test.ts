// `sepia serve` as an operator meets it: the first start, the next ones, what is refused, and how it ends.
import { execFile } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { startServer, tinyWide, type RunningServer } from '../support/running-server.ts'
import { leftovers, makePlace, refusal, removePlace, sepia, type Place } from '../support/sepia-command.ts'

let place: Place
beforeEach(() => {
  place = makePlace()
})
afterEach(() => removePlace(place))

const post = (server: RunningServer, fields: object, token: string, headers: Record<string, string> = {}) =>
  fetch(`${server.url}/generate/sdxl`, {
    method: 'POST',
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json', ...headers },
    body: JSON.stringify({ prompt: 'a red apple', steps: 1, use_refiner: false, ...fields }),
  })
const get = async (url: string, token: string) => {
  const answer = await fetch(url, { headers: { authorization: `Bearer ${token}` } })
  return { status: answer.status, json: (await answer.json()) as Record<string, unknown> }
}
const asynchronous = { 'x-octoai-async': '1' }
/** Work for minutes. */
const long = { steps: 200, num_images: 16 }

/** Where a request stands as soon as `wanted` holds of it. */
async function whenStatus(
  server: RunningServer,
  id: string,
  token: string,
  wanted: (json: Record<string, unknown>) => boolean,
) {
  let json: Record<string, unknown> = {}
  await expect
    .poll(async () => wanted((json = (await get(`${server.url}/v1/requests/${id}`, token)).json)), { timeout: 60_000 })
    .toBe(true)
  return json
}

describe('the first start', () => {
  it('prints a token once, with a line for the shell that works as it stands', async () => {
    await using server = await startServer([], { place })
    expect(server.greeting).toContain(`Sepia listens at ${server.url}, and explains itself at ${server.url}/docs\n`)
    expect(server.token).toMatch(/^sepia_[\w-]{43}$/)
    const [line] = /^ {2}curl .*$/m.exec(server.greeting)!
    const { stderr } = await promisify(execFile)('bash', ['-c', `set -o pipefail; ${line}`], { cwd: place.folder })
    expect(stderr).toBe('')
    expect(readFileSync(path.join(place.folder, 'apple.jpg')).subarray(0, 3)).toEqual(Buffer.of(0xff, 0xd8, 0xff))
    expect(existsSync(path.join(place.folder, 'data/admin.sock'))).toBe(true)
    // The log is JSON and has neither the token nor the prompt.
    expect(server.log().length).toBeGreaterThan(3)
    expect(server.started.stderr()).not.toMatch(/sepia_[\w-]{43}|red apple/)
    expect(await server.stop()).toMatchObject({ code: 0 })
    expect(leftovers({ ...place, folder: place.cache }, server.started.child.pid)).toEqual([])
  })

  it('takes the token of SEPIA_TOKEN, and keeps to it', async () => {
    const token = 'sepia_a-token-of-the-operators-own'
    await using server = await startServer([], { place, env: { SEPIA_TOKEN: token } })
    expect((await get(`${server.url}/v1/requests`, token)).status).toBe(200)
    expect(await server.stop()).toMatchObject({ code: 0 })
    await using again = await startServer([], { place, env: { SEPIA_TOKEN: token } })
    expect(again.greeting).not.toContain('token')
    expect((await get(`${again.url}/v1/requests`, token)).status).toBe(200)
    await again.stop()
    const data = path.join(place.folder, 'data')
    const argv = ['serve', '--port', '0', '--data', data, '--model', tinyWide]
    const other = await sepia(place, argv, { env: { SEPIA_TOKEN: 'sepia_another-token-of-somebody' } })
    expect(other.code).toBe(2)
    expect(other.stderr).toContain('SEPIA_TOKEN')
  })
})

it('the server process has no engine in it', async () => {
  await using server = await startServer([], { place })
  expect((await post(server, {}, server.token)).status).toBe(200)
  const maps = readFileSync(`/proc/${server.started.child.pid}/maps`, 'utf8')
  expect(maps).not.toMatch(/onnxruntime|libvips/)
})

describe('what is refused at the start', () => {
  const serve = (...argv: string[]) =>
    refusal(place, [
      'serve',
      '--port',
      '0',
      '--data',
      path.join(place.temporary, 'data'),
      '--log-level',
      'silent',
      ...argv,
    ])

  it.each([
    [['--host', '0.0.0.0', '--no-auth'], 2, '--no-auth works on a loopback address only'],
    [['--role', 'api'], 2, '--role api needs a database and a bucket'],
    [['--role', 'both'], 2, '--role must be one of all, api, got "both"'],
    [['--port', '70000'], 2, '--port must be a whole number from 0 to 65535, got "70000"'],
    [['--engines', '0'], 2, '--engines must be a whole number from 1 to 64, got "0"'],
    [['--public-url', 'pictures.example'], 2, '--public-url must be an origin such as https://pictures.example'],
    [
      ['--cors', 'https://a.example', 'b.example'],
      2,
      '--cors must be an origin such as https://pictures.example, got "b.example"',
    ],
    [['--price-list', 'none.json'], 2, '--price-list must be a file, got "none.json"'],
    [['--model', 'none.safetensors'], 1, '--model: there is no file or folder "none.safetensors"'],
    [['--refiner', 'none.safetensors'], 1, '--refiner: there is no file or folder "none.safetensors"'],
  ])('%j', async (argv, code, message) => {
    expect(await serve(...argv)).toEqual({ code, message: expect.stringContaining(message) })
  })

  it('a model that is none', async () => {
    const model = path.join(place.folder, 'model.safetensors')
    writeFileSync(model, 'no model at all')
    expect(await serve('--model', model)).toMatchObject({
      code: 1,
      message: expect.stringContaining('model.safetensors'),
    })
  })

  it('a port in use, and a data folder in use', async () => {
    await using server = await startServer([], { place })
    const data = path.join(place.folder, 'data')
    const { port } = new URL(server.url)
    const again = (...argv: string[]) => sepia(place, ['serve', '--model', tinyWide, '--log-level', 'silent', ...argv])
    const [samePort, sameData] = [
      await again('--port', port, '--data', path.join(place.folder, 'other')),
      await again('--port', '0', '--data', data),
    ]
    expect(samePort).toMatchObject({
      code: 2,
      stderr: `sepia: cannot listen at 127.0.0.1 port ${port}: the port is in use\n`,
    })
    expect(sameData).toMatchObject({
      code: 1,
      stderr: expect.stringContaining(`in use by process ${server.started.child.pid}`),
    })
  })
})

describe('the end', () => {
  it('gives back what runs, and the next start goes on with it', async () => {
    const token = 'sepia_a-token-for-two-starts'
    const env = { SEPIA_TOKEN: token }
    const server = await startServer(['--grace', '0'], { place, env })
    const { response_id: id } = (await (await post(server, { steps: 100 }, token, asynchronous)).json()) as {
      response_id: string
    }
    await whenStatus(server, id, token, ({ status }) => status === 'running')
    const waiting = post(server, { seed: 1 }, token)
    await expect.poll(async () => (await get(`${server.url}/v1/requests`, token)).json['total']).toBe(2)
    const outcome = server.stop()
    expect((await waiting).status).toBe(503)
    expect((await waiting).headers.get('retry-after')).toBe('5')
    expect(await outcome).toMatchObject({ code: 0 })
    await using next = await startServer([], { place, env })
    expect(await whenStatus(next, id, token, ({ status }) => status === 'completed')).toMatchObject({
      state: 'succeeded',
    })
  })

  it('lets what runs come to its end within the grace time', async () => {
    await using server = await startServer(['--grace', '60'], { place })
    const answered = post(server, { steps: 20 }, server.token)
    await expect.poll(() => server.log().some(({ state }) => state === 'running')).toBe(true)
    const outcome = server.stop()
    expect((await answered).status).toBe(200)
    expect(await outcome).toMatchObject({ code: 0 })
  })

  it('comes at once when it is asked for twice', async () => {
    await using server = await startServer(['--grace', '600'], { place })
    const answered = post(server, long, server.token)
    await expect.poll(() => server.log().some(({ state }) => state === 'running')).toBe(true)
    server.started.child.kill('SIGTERM')
    await expect.poll(() => server.started.stderr().includes('takes no more jobs')).toBe(true)
    const outcome = server.stop()
    expect([503, 499]).toContain((await answered).status)
    expect(await outcome).toMatchObject({ code: 0 })
  })
})
