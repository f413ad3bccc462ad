import type { ZodTypeProvider } from 'fastify-type-provider-zod'
import type {
  FastifyBaseLogger,
  FastifyInstance,
  FastifyReply,
  FastifyRequest,
  RawReplyDefaultExpression,
  RawRequestDefaultExpression,
  RawServerDefault,
} from 'fastify'
import type { Account } from '#service/accounts/account.ts'
import type { AssetLibrary } from '#service/assets/asset-library.ts'
import type { Usage } from '#service/billing/usage.ts'
import type { Jobs } from '#service/jobs/jobs.ts'
import type { Logger } from '../logger.ts'

/** What the door needs of the office. */
export type HttpServices = {
  readonly jobs: Jobs
  readonly assets: AssetLibrary
  /** The token's account; null for an unknown or revoked one. */
  authenticate(token: string): Promise<Account | null>
  /** Count one request for pictures. Throws `rate_limited`. */
  takeRequest(account: Account): Promise<void>
  usage(account: Account, from: Date | null, to: Date | null): Promise<Usage>
  /** Prometheus's text format. */
  metrics(): Promise<{ readonly contentType: string; readonly text: string }>
}

/** How this server answers. */
export type HttpOptions = {
  readonly logger: Logger
  /** Origin of the URLs in answers, without a slash at its end; null: what the request says of itself. */
  readonly publicUrl: string | null
  /** Everybody is this account, on loopback only; null: tokens are required. */
  readonly everybody: Account | null
  /** Browsers' origins that may use the API. */
  readonly corsOrigins: readonly string[]
  /** What /metrics asks for as a token; null: the token of an account called "default". */
  readonly metricsToken: string | null
  readonly version: string
  /** What pictures are computed with; `backend` is null where workers elsewhere may differ. */
  readonly computedWith: { readonly precision: string; readonly backend: string | null }
  newRequestId(): string
  /** Aborted when the server begins to stop: new requests are refused. */
  readonly stopping: AbortSignal
  /** Aborted when what still waits has to end. */
  readonly stopped: AbortSignal
}

/** What every route gets. */
export type HttpContext = { readonly services: HttpServices; readonly options: HttpOptions }

/** The server, with schemas in zod. */
export type HttpServer = FastifyInstance<
  RawServerDefault,
  RawRequestDefaultExpression,
  RawReplyDefaultExpression,
  FastifyBaseLogger,
  ZodTypeProvider
>

/** What functions that serve several routes need of a request. */
export type AnyRequest = Pick<FastifyRequest, 'headers' | 'protocol' | 'host' | 'account' | 'log' | 'raw' | 'id'>

/** What they need of a reply. */
export type AnyReply = Pick<FastifyReply, 'raw' | 'header' | 'code' | 'send'>

declare module 'fastify' {
  interface FastifyRequest {
    /** Whose request it is; only on routes that ask for a token. */
    account: Account
  }
}
