// The API's description: made from the same schemas that check requests, served as OpenAPI 3.1 and as a page.
import { createHash } from 'node:crypto'
import swagger from '@fastify/swagger'
import reference from '@scalar/fastify-api-reference'
import { createJsonSchemaTransform, createJsonSchemaTransformObject } from 'fastify-type-provider-zod'
import { z } from 'zod'
import type { HttpOptions, HttpServer } from './context.ts'

const about = `SDXL pictures, compatible with OctoAI's media generation service: programs written for its clients work after a change of
the base URL.

Every answer has \`X-User-Request-ID\` and \`X-Process-Time\` (seconds). A 422 says in \`loc\` which field is wrong. Official
clients repeat a call after 408, 409, 429 and every 5xx, so those are answered only where that can help.`

type JsonSchemaOverride = NonNullable<NonNullable<Parameters<typeof z.toJSONSchema>[1]>['override']>

/** Defaults and examples are lost where values change on the way in; here they come back. */
const keepNotes: JsonSchemaOverride = ({ zodSchema, jsonSchema }) => {
  const notes = z.globalRegistry.get(zodSchema)
  if (notes?.['default'] !== undefined) jsonSchema.default = notes['default']
  if (Array.isArray(notes?.['examples'])) jsonSchema.examples = notes['examples']
}

/** Collect the description of all routes that are added from here on. */
export async function describeApi(server: HttpServer, { version }: Pick<HttpOptions, 'version'>): Promise<void> {
  const zodToJsonConfig = { override: keepNotes }
  await server.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: { title: 'Sepia', version, description: about, license: { name: 'Apache-2.0' } },
      servers: [{ url: '/', description: 'This server.' }],
      tags: [
        { name: 'pictures', description: 'Making pictures.' },
        { name: 'requests', description: 'Requests that are under way or done.' },
        { name: 'assets', description: 'Models, LoRAs, textual inversions and VAEs of one’s own.' },
        { name: 'account', description: 'What was used and what is left.' },
        { name: 'server', description: 'Health and figures.' },
      ],
      security: [{ token: [] }],
      components: { securitySchemes: { token: { type: 'http', scheme: 'bearer', description: 'sepia_…' } } },
    },
    transform: createJsonSchemaTransform({ zodToJsonConfig }),
    transformObject: createJsonSchemaTransformObject({ zodToJsonConfig }),
  })
}

type OpenApi = { readonly components?: { readonly schemas?: Readonly<Record<string, unknown>> } }

/**
 * The description as it is published. Each schema is there twice, as what is sent in and as what comes out of it; what
 * nothing refers to is left out, and what is sent in gets its plain name.
 */
function publishedDescription(server: HttpServer): object {
  const { components, ...rest } = server.swagger() as OpenApi
  const all = components?.schemas ?? {}
  const used = referredTo(rest, all)
  const schemas = Object.fromEntries(Object.entries(all).filter(([name]) => used.has(name)))
  let text = JSON.stringify({ ...rest, components: { ...components, schemas } })
  for (const name of used)
    if (name.endsWith('Input'))
      text = text.replaceAll(new RegExp(`(?<="|/)${name}(?=")`, 'g'), name.slice(0, -'Input'.length))
  return JSON.parse(text) as object
}

/** Names of the schemas that `value` refers to, and of those that these refer to. */
function referredTo(
  value: unknown,
  schemas: Readonly<Record<string, unknown>>,
  found = new Set<string>(),
): Set<string> {
  for (const [, name] of JSON.stringify(value).matchAll(/"#\/components\/schemas\/(\w+)"/g)) {
    if (found.has(name)) continue
    found.add(name)
    referredTo(schemas[name], schemas, found)
  }
  return found
}

/** GET /openapi.json and the page at /docs, which loads nothing from anywhere else. */
export async function addDocumentation(server: HttpServer): Promise<void> {
  const hidden = { hide: true } as const
  server.get('/openapi.json', { schema: hidden }, async () => publishedDescription(server))

  let policy = ''
  await server.register(async (docs) => {
    docs.addHook('onSend', async (request, reply, payload) => {
      if (typeof payload === 'string' && String(reply.getHeader('content-type')).startsWith('text/html'))
        policy = pagePolicy(payload)
      if (policy !== '' && request.routeOptions.url?.startsWith('/docs'))
        reply.header('content-security-policy', policy)
    })
    await docs.register(reference, {
      routePrefix: '/docs',
      configuration: {
        url: '/openapi.json',
        pageTitle: 'Sepia API',
        theme: 'default',
        withDefaultFonts: false,
        telemetry: false,
        hideClientButton: true,
        showDeveloperTools: 'never',
        orderSchemaPropertiesBy: 'preserve',
        agent: { disabled: true },
        mcp: { disabled: true },
      },
    })
  })
}

/** What the page may load: this server's own files, and of inline scripts the one that it was rendered with. */
function pagePolicy(html: string): string {
  const scripts = Array.from(html.matchAll(/<script(?:\s[^>]*)?>([^]*?)<\/script>/g), ([, code]) => code)
  const hashes = scripts
    .filter((code) => code !== '')
    .map((code) => `'sha256-${createHash('sha256').update(code).digest('base64')}'`)
  return [
    "default-src 'none'",
    `script-src 'self' ${hashes.join(' ')}`,
    "style-src 'self' 'unsafe-inline'",
    "img-src 'self' data: blob:",
    "font-src 'self' data:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; ')
}
