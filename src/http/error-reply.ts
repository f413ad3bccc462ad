// Errors → replies, in one place. A client's fault is a 4xx that names the place in the request; a 5xx tells nothing of
// the inside and is answered only where the same call may succeed later, because official clients repeat those at once.
import type { z } from 'zod'
import { AppError, errorTable, type ErrorCode } from '../errors.ts'
import { wireName } from './wire-names.ts'

/** One fault of a request: where it is, level by level with list indexes, and what is wrong. */
export type Fault = { readonly loc: readonly (string | number)[]; readonly msg: string; readonly type: string }

/** Where in a request a schema was looking. */
export type RequestPart = 'body' | 'path' | 'query' | 'header'

/** A request with faults, each in its place; always a 422. */
export class InvalidRequest extends Error {
  override readonly name = 'InvalidRequest'
  readonly faults: readonly Fault[]

  constructor(faults: readonly Fault[]) {
    super(faults.map(({ msg }) => msg).join('; '))
    this.faults = faults
  }
}

/** What a client gets instead of an answer. */
export type ErrorReply = {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: { readonly detail: string | readonly Fault[]; readonly message?: string }
}

/** The faults that a schema found in one part of a request. */
export function faultsOf(error: z.core.$ZodError, part: RequestPart): Fault[] {
  const faults = error.issues.flatMap((issue) => issueFaults(issue, [part]))
  // One fault a place: a number that is no whole one may also be out of range.
  return faults.filter(({ loc }, index) => faults.findIndex((other) => samePlace(other.loc, loc)) === index)
}

/** What to answer for `error`. Whatever is no error of the client's, of this table or of fastify's is a bug: 500. */
export function errorReply(error: unknown): ErrorReply {
  if (error instanceof InvalidRequest) return { status: 422, headers: {}, body: { detail: error.faults } }
  if (error instanceof AppError) return appErrorReply(error)
  const known = frameworkErrors[codeOf(error)]
  if (known) return { status: known[0], headers: {}, body: { detail: known[1] } }
  return appErrorReply(new AppError('internal', 'internal'))
}

/** Errors of fastify's that a client can cause → status and words. */
const frameworkErrors: Readonly<Record<string, readonly [status: number, detail: string]>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: [413, 'the body is larger than the 64 MiB that a request may have'],
  FST_ERR_CTP_INVALID_MEDIA_TYPE: [
    415,
    'the body must be JSON: send it with the header Content-Type: application/json',
  ],
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: [400, 'the body has another length than its header Content-Length says'],
  FST_ERR_CTP_INVALID_TYPE: [415, 'the header Content-Type cannot be understood; send application/json'],
  FST_ERR_BAD_URL: [400, 'the path is no valid URL'],
  FST_ERR_MAX_PARAM_LENGTH: [404, 'there is nothing at this path'],
}

const codeOf = (error: unknown): string =>
  typeof error === 'object' && error !== null && 'code' in error && typeof error.code === 'string' ? error.code : ''

function appErrorReply({ code, message, field, retryAfterSeconds }: AppError): ErrorReply {
  const { status } = errorTable[code]
  const headers: Record<string, string> = {}
  if (retryAfterSeconds !== undefined) headers['retry-after'] = String(Math.max(1, Math.ceil(retryAfterSeconds)))
  if (code === 'unauthorized') headers['www-authenticate'] = 'Bearer'
  const words = publicWords[code] ?? message
  if (code === 'prompt_refused') return { status, headers, body: { message: words, detail: words } }
  if (status !== 422) return { status, headers, body: { detail: words } }
  return { status, headers, body: { detail: [{ loc: placeOf(field ?? fieldOfCode[code]), msg: words, type: code }] } }
}

/** For errors whose own message may tell of paths, processes or libraries: what a client is told instead. */
const publicWords: Readonly<Partial<Record<ErrorCode, string>>> = {
  output_unwritable: 'the server cannot store the result',
  cache_unwritable: 'the server cannot write its prepared weights',
  disk_full: "the server's disk is full",
  device_unavailable: "the server's device does not work",
  backend_failed: 'the engine could not compute this picture; the same request will fail again',
  engine_busy: 'the engine is busy',
  engine_crashed: 'the engine process died over this picture, also when it was tried again; nothing was charged',
  out_of_memory: "the server's memory does not suffice for this picture; nothing was charged",
  not_finite: 'the model gave numbers that are no picture (NaN or infinity); the same request will fail again',
  model_not_found: "the server's model cannot be found",
  bad_file: "the server's model cannot be read",
  internal: 'something went wrong in the server; its log says what, under the X-User-Request-ID of this answer',
}

/** The place that a code is about when the error names none. */
const fieldOfCode: Readonly<Partial<Record<ErrorCode, string>>> = {
  bad_prompt: 'prompt',
  bad_size: 'width',
  idempotency_conflict: 'idempotencyKey',
}

function placeOf(field: string | undefined): readonly string[] {
  if (field === undefined) return ['body']
  if (field === 'idempotencyKey') return ['header', 'Idempotency-Key']
  return ['body', wireName(field)]
}

function issueFaults(issue: z.core.$ZodIssue, above: readonly (string | number)[]): Fault[] {
  const loc = [...above, ...issue.path.map((key) => (typeof key === 'symbol' ? String(key) : key))]
  if (issue.code === 'unrecognized_keys')
    return issue.keys.map((key) => ({
      loc: [...loc, key],
      msg: `${nameOf([...loc, key])} is no field of this request`,
      type: 'extra_forbidden',
    }))
  if (issue.code === 'invalid_union') {
    // The alternative that was meant is the one whose faults lie inside the value.
    const meant = issue.errors.find((faults) => faults.length > 0 && faults.every(({ path }) => path.length > 0))
    if (meant) return meant.flatMap((inner) => issueFaults(inner, loc))
  }
  const missing = issue.code === 'invalid_type' && issue.input === undefined
  return [{ loc, msg: `${nameOf(loc)} ${issue.message}`, type: missing ? 'missing' : issue.code }]
}

/** `body, seed, 2` → `seed[2]`. */
function nameOf([part, ...levels]: readonly (string | number)[]): string {
  if (levels.length === 0) return `the ${part}`
  return levels
    .map((level, index) => (typeof level === 'number' ? `[${level}]` : index > 0 ? `.${level}` : level))
    .join('')
}

const samePlace = (a: Fault['loc'], b: Fault['loc']): boolean =>
  a.length === b.length && a.every((level, index) => level === b[index])
