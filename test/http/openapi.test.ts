// The description: made again, and held against the committed one and against what the server does.
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { generateRequest } from '../../src/http/schemas/generate-request.ts'
import { call, openHttpOffice, type HttpOffice } from '../support/http-office.ts'

type Schema = { readonly [key: string]: unknown; readonly properties: Readonly<Record<string, Schema>> }
type Description = {
  readonly paths: Readonly<
    Record<string, Readonly<Record<string, { readonly responses: object; readonly summary: string }>>>
  >
  readonly components: { readonly schemas: Readonly<Record<string, Schema>> }
}

let door: HttpOffice
let described: Description

beforeAll(async () => {
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
    version: string
  }
  door = await openHttpOffice({ engines: 0 }, { version })
  described = (await call(door.server, 'GET', '/openapi.json')).json as Description
})
afterAll(() => door[Symbol.asyncDispose]())

it('is docs/openapi.json (write it anew with vitest -u)', async () => {
  await expect(`${JSON.stringify(described, null, 2)}\n`).toMatchFileSnapshot('../../docs/openapi.json')
})

it('is OpenAPI 3.1 and has every path of the server', () => {
  expect(described).toMatchObject({ openapi: '3.1.0', security: [{ token: [] }] })
  const paths = Object.entries(described.paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method} ${path}`),
  )
  expect(paths.sort()).toEqual([
    'delete /v1/assets/{id}',
    'delete /v1/requests/{id}',
    'get /health',
    'get /healthcheck',
    'get /metrics',
    'get /v1/assets',
    'get /v1/assets/{id}',
    'get /v1/requests',
    'get /v1/requests/{id}',
    'get /v1/requests/{id}/events',
    'get /v1/responses/{id}',
    'get /v1/transfers/{id}',
    'get /v1/usage',
    'head /health',
    'head /healthcheck',
    'post /generate/sdxl',
    'post /predict',
    'post /v1/assets',
    'post /v1/assets/{id}/complete-upload',
    'put /v1/transfers/{id}',
  ])
})

it('tells of every field its meaning and its default', () => {
  const { properties, ...rest } = described.components.schemas['GenerateRequest']
  expect(rest).toMatchObject({ type: 'object', required: ['prompt'], additionalProperties: false })
  const defaults = generateRequest.parse({ prompt: '' })
  expect(Object.keys(properties)).toEqual(Object.keys(defaults))
  const told = Object.entries(properties)
  expect(told.filter(([, field]) => !String(field['description']).endsWith('.'))).toEqual([])
  expect(told.filter(([name]) => name !== 'prompt').map(([name, field]) => [name, field['default'] ?? null])).toEqual(
    Object.entries(defaults).filter(([name]) => name !== 'prompt'),
  )
})

it('tells of each route its errors', () => {
  const statuses = (path: string, method: string) => Object.keys(described.paths[path][method].responses)
  expect(statuses('/generate/sdxl', 'post')).toEqual([
    '200',
    '201',
    '400',
    '401',
    '402',
    '413',
    '415',
    '422',
    '429',
    '503',
  ])
  expect(statuses('/v1/requests/{id}', 'get')).toEqual(['200', '202', '401', '404', '422'])
})

it('is shown by a page that loads nothing from elsewhere', async () => {
  const get = (url: string) => call(door.server, 'GET', url)
  const page = await get('/docs/')
  expect(page.status).toBe(200)
  const policy = String(page.headers['content-security-policy'])
  const scripts = Array.from(page.text.matchAll(/<script[^>]*>([^]*?)<\/script>/g), ([, code]) => code)
  const inline = scripts.find((code) => code !== '')!
  expect(policy).toContain(`'sha256-${createHash('sha256').update(inline).digest('base64')}'`)
  expect(policy).toMatch(/^default-src 'none'; script-src 'self' 'sha256-[^']+'; /)
  expect(policy).not.toMatch(/https?:|\*|unsafe-eval|script-src[^;]*unsafe-inline/)
  const loaded = Array.from(page.text.matchAll(/<(?:script|link|img)[^>]+(?:src|href)="([^"]*)"/g), ([, url]) => url)
  expect(loaded).toEqual(['js/scalar.js'])
  const script = await get('/docs/js/scalar.js')
  expect(script.status).toBe(200)
  expect(script.headers['content-type']).toMatch(/^application\/javascript/)
  expect(await get('/docs')).toMatchObject({ status: 301 })
})
