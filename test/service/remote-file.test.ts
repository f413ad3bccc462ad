// Fetching what a stranger names: whom we speak to, for how long, and what the stranger learns from a refusal.
import { once } from 'node:events'
import type { RequestListener } from 'node:http'
import { describe, expect, it } from 'vitest'
import { fetchUrl } from '#service/assets/remote/fetch-url.ts'
import { isPublicAddress } from '#service/assets/remote/public-address.ts'
import { openRemote, type FetchRules } from '#service/assets/remote/remote-file.ts'
import { certificate, startFileServer } from '../support/file-server.ts'

const rules = (changes: Partial<FetchRules> = {}): FetchRules => ({
  allowLoopback: true,
  maxBytes: 1000,
  idleMs: 5000,
  totalMs: 10_000,
  ca: certificate,
  ...changes,
})

/** Names → addresses, in turn; the last one stays. */
function lookup(...answers: readonly (readonly string[])[]) {
  const asked: string[] = []
  const found = (host: string) => {
    const addresses = answers[Math.min(asked.length, answers.length - 1)]
    asked.push(host)
    return Promise.resolve(addresses.map((address) => ({ address, family: address.includes(':') ? 6 : 4 })))
  }
  return Object.assign(found, { asked })
}

async function fetched(url: string, given: FetchRules): Promise<string> {
  const chunks: Uint8Array[] = []
  await fetchUrl(url, given, async (bytes) => {
    for await (const chunk of bytes) chunks.push(chunk)
  })
  return Buffer.concat(chunks).toString('latin1')
}

const unreachable = { code: 'fetch_failed', message: 'url: cannot be fetched, its server cannot be reached from here' }
const says =
  (status: number, headers: Record<string, string>, body = ''): RequestListener =>
  (_, response) =>
    void response.writeHead(status, headers).end(body)

describe('addresses', () => {
  it.each([
    '1.1.1.1',
    '93.184.216.34',
    '172.15.255.255',
    '172.32.0.0',
    '223.255.255.255',
    '2606:4700::1111',
    '2001:4860::8888',
  ])('%s is public', (address) => expect(isPublicAddress(address)).toBe(true))
  it.each([
    '0.0.0.0',
    '10.1.2.3',
    '100.64.0.1',
    '127.0.0.1',
    '169.254.169.254',
    '172.16.0.1',
    '172.31.255.255',
    '192.168.1.1',
    '192.0.0.1',
    '198.18.0.1',
    '203.0.113.1',
    '224.0.0.1',
    '240.0.0.1',
    '255.255.255.255',
    '::',
    '::1',
    '::ffff:1.1.1.1',
    '::ffff:127.0.0.1',
    '::127.0.0.1',
    '64:ff9b::1.1.1.1',
    '64:ff9b:1::1',
    '100::1',
    'fc00::1',
    'fd12::1',
    'fe80::1',
    'fe80::1%eth0',
    'fec0::1',
    'ff02::1',
    '2001::1',
    '2001:db8::1',
    '2002:7f00:1::',
    '3fff::1',
    '2606:4700::1%lo',
    'example.com',
    '',
  ])('%s is not', (address) => expect(isPublicAddress(address)).toBe(false))
})

describe('a fetch', () => {
  it('takes bytes over TLS, by the address that was looked up once', async () => {
    await using server = await startFileServer(says(200, {}, 'weights'), { tls: true })
    const names = lookup(['127.0.0.1'])
    expect(await fetched(`https://files.test:${server.port}/a`, rules({ lookup: names }))).toBe('weights')
    expect(names.asked).toEqual(['files.test'])
    expect(server.asked[0].headers).toMatchObject({ host: `files.test:${server.port}`, 'accept-encoding': 'identity' })
  })

  it('speaks to no server whose certificate is not for the name', async () => {
    await using server = await startFileServer(says(200, {}, 'weights'), { tls: true })
    const given = rules({ lookup: lookup(['127.0.0.1']) })
    await expect(fetched(`https://wrong.test:${server.port}/`, given)).rejects.toMatchObject(unreachable)
    expect(server.asked).toEqual([])
  })

  it('looks at the address again when a name has changed its mind', async () => {
    await using server = await startFileServer(says(302, { location: '/again' }), { tls: true })
    const names = lookup(['127.0.0.1'], ['10.0.0.1'])
    await expect(fetched(`https://files.test:${server.port}/`, rules({ lookup: names }))).rejects.toMatchObject(
      unreachable,
    )
    expect(names.asked).toHaveLength(2)
    expect(server.asked).toHaveLength(1)
  })

  it('refuses a name that has one wrong address among others, without dialling any', async () => {
    await using server = await startFileServer(says(200, {}), { tls: true })
    const given = rules({ lookup: lookup(['127.0.0.1', '192.168.0.1']) })
    await expect(fetched(`https://files.test:${server.port}/`, given)).rejects.toMatchObject(unreachable)
    expect(server.asked).toEqual([])
  })

  it('does not reach this machine unless that is allowed, and says no more than of a name that is not there', async () => {
    await using server = await startFileServer(says(200, {}, 'secret'), { tls: true })
    const strict = rules({ allowLoopback: false, lookup: lookup(['127.0.0.1']) })
    const nobody = rules({ allowLoopback: false, lookup: () => Promise.reject(new Error('ENOTFOUND')) })
    const { port } = server
    const places = [`files.test:${port}`, `127.0.0.1:${port}`, `127.1:${port}`, `0x7f.1:${port}`, `2130706433:${port}`]
    places.push(
      `[::1]:${port}`,
      `[::ffff:127.0.0.1]:${port}`,
      `[64:ff9b::7f00:1]:${port}`,
      '10.0.0.1',
      '169.254.169.254',
    )
    for (const place of places) await expect(fetched(`https://${place}/`, strict)).rejects.toMatchObject(unreachable)
    await expect(fetched('https://nobody.test/', nobody)).rejects.toMatchObject(unreachable)
    expect(server.asked).toEqual([])
  })

  it.each([
    ['http://example.com/a', 'url: cannot be fetched, its server cannot be reached from here'],
    ['ftp://example.com/a', 'url must begin with https://, and so must where it redirects to'],
    ['file:///etc/passwd', 'url must begin with https://, and so must where it redirects to'],
    ['example.com/a', 'url must be a URL such as https://example.com/model.safetensors'],
    ['https://user:word@127.0.0.1/a', 'url must have no user name and no password in it'],
  ])('refuses %s', async (url, message) => {
    const given = rules({ lookup: lookup(['93.184.216.34']) })
    await expect(fetched(url, given)).rejects.toMatchObject({ message })
  })

  it('refuses http where only strangers are meant', async () => {
    const url = 'http://127.0.0.1:9/'
    await expect(fetched(url, rules({ allowLoopback: false }))).rejects.toMatchObject({ code: 'bad_argument' })
  })

  it('follows redirects as far as they are allowed', async () => {
    await using server = await startFileServer((incoming, response) => {
      const hop = Number(incoming.url?.slice(1))
      if (hop === 0) response.end('there')
      else response.writeHead(307, { location: `/${hop - 1}` }).end()
    })
    expect(await fetched(`${server.origin}/5`, rules())).toBe('there')
    const endless = fetched(`${server.origin}/6`, rules())
    await expect(endless).rejects.toMatchObject({
      message: 'url: cannot be fetched, it was redirected more than 5 times',
    })
  })

  it.each([
    ['http://10.0.0.1/', unreachable],
    ['https://169.254.169.254/latest/meta-data', unreachable],
    ['gopher://127.0.0.1/', { code: 'bad_argument' }],
    ['', { code: 'fetch_failed', message: 'url: cannot be fetched, its server sends elsewhere without saying where' }],
  ])('is not redirected to "%s"', async (location, error) => {
    await using server = await startFileServer(says(301, location === '' ? {} : { location }))
    await expect(fetched(`${server.origin}/`, rules())).rejects.toMatchObject(error)
  })

  it('tells its token to the origin that was named and to no other', async () => {
    await using other = await startFileServer(says(200, {}, 'bytes'))
    await using server = await startFileServer((incoming, response) => {
      const location = incoming.url === '/a' ? '/b' : `http://secret:word@127.0.0.1:${other.port}/c`
      response.writeHead(302, { location }).end()
    })
    await using file = await openRemote({ url: `${server.origin}/a`, field: 'url', token: 'hf_secret' }, rules())
    expect(file.status).toBe(200)
    expect(server.asked.map(({ headers }) => headers.authorization)).toEqual(['Bearer hf_secret', 'Bearer hf_secret'])
    expect(other.asked.map(({ headers }) => headers.authorization)).toEqual([undefined])
  })

  it('ends an endless body at the limit and hangs up', async () => {
    const hungUp = Promise.withResolvers<void>()
    await using server = await startFileServer((_, response) => {
      const more = (): void => void (response.destroyed || response.write('x'.repeat(500), more))
      response.once('close', () => hungUp.resolve())
      more()
    })
    await expect(fetched(`${server.origin}/`, rules())).rejects.toMatchObject({
      code: 'too_large',
      message: 'url: the file is larger than 1000 bytes',
    })
    await hungUp.promise
  })

  it('does not begin to read what is announced as too large', async () => {
    let sent = 0
    await using server = await startFileServer((_, response) => {
      response.writeHead(200, { 'content-length': '1001' }).flushHeaders()
      response.once('close', () => (sent = response.socket?.bytesWritten ?? 0))
    })
    await expect(fetched(`${server.origin}/`, rules())).rejects.toMatchObject({ code: 'too_large' })
    expect(sent).toBeLessThan(1000)
  })

  it('gives up on a body that stops and on one that drips', async () => {
    await using server = await startFileServer((incoming, response) => {
      response.write('x')
      if (incoming.url === '/stop') return
      const timer = setInterval(() => response.write('x'), 20)
      response.once('close', () => clearInterval(timer))
    })
    await expect(fetched(`${server.origin}/stop`, rules({ idleMs: 100 }))).rejects.toMatchObject({
      message: 'url: cannot be fetched, the connection ended before all of it had come',
    })
    await expect(fetched(`${server.origin}/drip`, rules({ totalMs: 300 }))).rejects.toMatchObject({
      message: 'url: cannot be fetched, it takes too long',
    })
  })

  it('gives up on a server that never answers', async () => {
    await using server = await startFileServer(() => {})
    await expect(fetched(`${server.origin}/`, rules({ idleMs: 100 }))).rejects.toMatchObject(unreachable)
  })

  it('ends with whoever asked for it', async () => {
    const asked = new AbortController()
    await using server = await startFileServer((_, response) => void response.write('x', () => asked.abort()))
    const given = rules({ signal: asked.signal })
    await expect(fetched(`${server.origin}/`, given)).rejects.toMatchObject({ code: 'cancelled' })
  })

  it('is refused when less comes than was said, when it is packed, and when it is not there', async () => {
    await using server = await startFileServer((incoming, response) => {
      if (incoming.url === '/short') {
        response.writeHead(200, { 'content-length': '10' })
        response.write('12345', () => response.destroy())
      } else if (incoming.url === '/packed') response.writeHead(200, { 'content-encoding': 'gzip' }).end('x')
      else response.writeHead(404).end('a long page')
    })
    const message = (text: string) => ({ code: 'fetch_failed', message: `url: cannot be fetched, ${text}` })
    await expect(fetched(`${server.origin}/short`, rules())).rejects.toMatchObject(
      message('the connection ended before all of it had come'),
    )
    await expect(fetched(`${server.origin}/packed`, rules())).rejects.toMatchObject(
      message('its server sends it packed'),
    )
    await expect(fetched(`${server.origin}/no`, rules())).rejects.toMatchObject(
      message('its server answered with status 404'),
    )
  })

  it('hands on what its sink throws, and hangs up', async () => {
    const hungUp = Promise.withResolvers<void>()
    await using server = await startFileServer((_, response) => {
      response.write('x')
      void once(response, 'close').then(() => hungUp.resolve())
    })
    const full = fetchUrl(`${server.origin}/`, rules(), () => Promise.reject(new Error('the disk is full')))
    await expect(full).rejects.toThrow('the disk is full')
    await hungUp.promise
  })
})
