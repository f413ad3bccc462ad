// The HTTP room on a real office: PGlite, files, and engine processes whose tasks do what their prompts say.
import { mkdtemp, rm } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { HttpOptions, HttpServer, HttpServices } from '../../src/http/context.ts'
import { createHttpServer } from '../../src/http/server.ts'
import { createLogger } from '../../src/logger.ts'
import type { Account } from '../../src/service/accounts/account.ts'
import { takeRequest } from '../../src/service/accounts/rate-limit.ts'
import { authenticate, createToken } from '../../src/service/accounts/token.ts'
import { openAssetLibrary } from '../../src/service/assets/asset-library.ts'
import type { RemoteSettings } from '../../src/service/assets/fetch-remote.ts'
import { usage } from '../../src/service/billing/usage.ts'
import type { SubmitContext } from '../../src/service/jobs/submit-job.ts'
import { newAccount, openOffice, type Office } from './job-office.ts'
import { makeDatabase } from './test-database.ts'

/** An account with its token. */
export type Client = { readonly account: Account; readonly headers: { readonly authorization: string } }

/** One request to a server: by a client or by nobody. */
export type Call = {
  readonly headers?: Readonly<Record<string, string>>
  /** An object is sent as JSON, text and bytes as they are. */
  readonly payload?: object | string
  readonly by?: Client | null
}

/** What a server answers; `json` is null where it is no JSON. */
export type Answer = {
  readonly status: number
  readonly headers: Readonly<Record<string, string | string[] | number | undefined>>
  readonly text: string
  readonly json: unknown
}

/** Send one request past the network. */
export async function call(server: HttpServer, method: Method, url: string, given: Call = {}): Promise<Answer> {
  const { headers = {}, payload, by } = given
  const answer = await server.inject({
    method,
    url,
    headers: { ...by?.headers, ...headers },
    ...(payload !== undefined && { payload }),
  })
  const isJson = String(answer.headers['content-type']).startsWith('application/json') && answer.body !== ''
  return {
    status: answer.statusCode,
    headers: answer.headers,
    text: answer.body,
    json: isJson ? (JSON.parse(answer.body) as unknown) : null,
  }
}

type Method = 'GET' | 'POST' | 'DELETE' | 'OPTIONS' | 'HEAD' | 'PUT'

/** The port of a server, which listens from the first call on. */
export async function portOf(server: HttpServer): Promise<number> {
  if (!server.server.listening) await server.listen({ port: 0 })
  return (server.server.address() as AddressInfo).port
}

/** An office with a door. */
export type HttpOffice = AsyncDisposable & {
  readonly office: Office
  readonly server: HttpServer
  /** What the HTTP room logged, as text. */
  readonly log: readonly string[]
  /** A folder for files that engine tasks write or wait for. */
  readonly folder: string
  /** Another door of the same office. */
  open(options?: Partial<HttpOptions>): Promise<HttpServer>
  newClient(limits?: Partial<Account>): Promise<Client>
}

/** Open an office with a door and one engine; `engines: 0` leaves every job in the queue. */
export async function openHttpOffice(
  {
    engines = 1,
    remote = { urls: null, hub: null },
    ...overrides
  }: Partial<SubmitContext> & { engines?: number; remote?: RemoteSettings } = {},
  options: Partial<HttpOptions> = {},
): Promise<HttpOffice> {
  await using resources = new AsyncDisposableStack()
  const folder = await mkdtemp(path.join(tmpdir(), 'sepia-http-'))
  resources.defer(() => rm(folder, { recursive: true }))
  const { place } = resources.use(await makeDatabase('pglite'))
  const office = resources.use(await openOffice(place, path.join(folder, 'files'), overrides))
  if (engines > 0) await office.run({ engines })
  const { db } = office.database
  const assets = resources.use(await openAssetLibrary({ ...office.context, remote, patienceMs: 1000 }))
  const log: string[] = []
  const services: HttpServices = {
    jobs: office.jobs,
    assets,
    authenticate: (token) => authenticate(db, token),
    // The minute never ends.
    takeRequest: (account) => takeRequest(db, account, new Date('2026-01-31T12:00:30Z')),
    usage: (account, from, to) => usage(db, account, from, to),
    metrics: () => office.metrics.scrape(),
  }
  let requests = 0
  const stopped = new AbortController()
  const servers: HttpServer[] = []
  // Whoever still waits would keep the servers from closing.
  resources.defer(async () => {
    stopped.abort()
    await Promise.all(servers.map((server) => server.close()))
  })
  const open = async (changes: Partial<HttpOptions> = {}): Promise<HttpServer> => {
    const server = await createHttpServer(services, {
      logger: createLogger('debug', { write: (line) => void log.push(line) }),
      publicUrl: 'http://sepia.test',
      everybody: null,
      corsOrigins: [],
      metricsToken: null,
      version: '0.0.0',
      computedWith: { precision: 'fp32', backend: 'onnxruntime' },
      newRequestId: () => `request-${++requests}`,
      stopping: new AbortController().signal,
      stopped: stopped.signal,
      ...options,
      ...changes,
    })
    servers.push(server)
    return server
  }
  const server = await open()
  const owned = resources.move()
  return {
    office,
    server,
    log,
    folder,
    open,
    async newClient(limits = {}) {
      const account = await newAccount(office.database, limits)
      const { token } = await createToken(db, account.id, 'test')
      return { account, headers: { authorization: `Bearer ${token}` } }
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}
