import { expect, it } from 'vitest'
import { createLogger } from '../../src/logger.ts'
import { serveMetrics } from '../../src/service/metrics-server.ts'

const metrics = { scrape: async () => ({ contentType: 'text/plain; version=0.0.4', text: 'sepia_jobs 1\n' }) }
const log = createLogger('silent')

it('answers the numbers, and nothing else', async () => {
  await using server = await serveMetrics(metrics, { host: '127.0.0.1', port: 0, token: null }, log)
  const answer = await fetch(`http://127.0.0.1:${server.port}/metrics`)
  expect([answer.status, answer.headers.get('content-type')]).toEqual([200, 'text/plain; version=0.0.4'])
  expect(await answer.text()).toBe('sepia_jobs 1\n')
  expect((await fetch(`http://127.0.0.1:${server.port}/`)).status).toBe(404)
  expect((await fetch(`http://127.0.0.1:${server.port}/metrics`, { method: 'POST' })).status).toBe(404)
})

it('asks for the token where there is one', async () => {
  await using server = await serveMetrics(metrics, { host: '127.0.0.1', port: 0, token: 'secret' }, log)
  const ask = async (authorization: string) =>
    (await fetch(`http://127.0.0.1:${server.port}/metrics`, { headers: { authorization } })).status
  expect(await ask('')).toBe(401)
  expect(await ask('Bearer Secret')).toBe(401)
  expect(await ask('Bearer secret')).toBe(200)
})

it('answers 503 when the numbers cannot be had, and lives on', async () => {
  let works = false
  const failing = {
    scrape: async () => {
      if (works) return metrics.scrape()
      throw new Error('no database')
    },
  }
  await using server = await serveMetrics(failing, { host: '127.0.0.1', port: 0, token: null }, log)
  expect((await fetch(`http://127.0.0.1:${server.port}/metrics`)).status).toBe(503)
  works = true
  expect((await fetch(`http://127.0.0.1:${server.port}/metrics`)).status).toBe(200)
})

it('says where it cannot listen', async () => {
  await using server = await serveMetrics(metrics, { host: '127.0.0.1', port: 0, token: null }, log)
  const place = { host: '127.0.0.1', port: server.port, token: null }
  await expect(serveMetrics(metrics, place, log)).rejects.toMatchObject({
    code: 'bad_argument',
    message: `metrics: cannot listen at 127.0.0.1 port ${server.port} (EADDRINUSE)`,
  })
})
