import { connect } from 'node:net'
import fastify from 'fastify'
import { expect, it, onTestFinished } from 'vitest'
import { limitBodyTime } from '../../src/http/slow-body.ts'

it('a body that does not come to its end is refused; uploads and answers may take their time', async () => {
  const server = fastify()
  onTestFinished(() => server.close())
  const late: string[] = []
  server.addHook('onRequest', async (request) => {
    limitBodyTime(request, 30, () => {
      late.push(request.url)
      request.raw.socket.end('late')
    })
  })
  server.addContentTypeParser('*', (_request, _payload, done) => done(null))
  const slowly = () => new Promise((resolve) => setTimeout(() => resolve('slow'), 90))
  server.get('/slow', slowly)
  server.post('/whole', slowly)
  server.post('/upload', { config: { upload: true } }, slowly)
  await server.listen({ port: 0, host: '127.0.0.1' })
  const { port } = server.server.address() as { port: number }
  const send = (head: string, body: string) =>
    new Promise<string>((resolve) => {
      let answer = ''
      const socket = connect(port, '127.0.0.1')
      socket.setEncoding('utf8').on('data', (text: string) => (answer += text))
      socket.on('close', () => resolve(answer))
      socket.write(`${head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n${body}`)
    })
  const json = 'Content-Type: application/json\r\n'
  expect(await send('GET /slow', '\r\n')).toContain('slow')
  expect(await send('POST /whole', `${json}Content-Length: 2\r\n\r\n{}`)).toContain('slow')
  expect(await send('POST /upload', `Content-Length: 9\r\n\r\n{}`)).toContain('slow')
  expect(late).toEqual([])
  expect(await send('POST /whole', `${json}Content-Length: 9\r\n\r\n{}`)).toBe('late')
  expect(late).toEqual(['/whole'])
})
