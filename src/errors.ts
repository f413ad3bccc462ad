// Every error that a user can meet, in one table: what it means over HTTP, and whether the same call may succeed later.

/** Code → HTTP status and whether repeating the same call can help. */
export const errorTable = {
  bad_argument: { status: 422, retryable: false },
  bad_prompt: { status: 422, retryable: false },
  bad_size: { status: 422, retryable: false },
  bad_image: { status: 422, retryable: false },
  model_not_found: { status: 404, retryable: false },
  bad_file: { status: 422, retryable: false },
  wrong_architecture: { status: 422, retryable: false },
  missing_tensors: { status: 422, retryable: false },
  output_unwritable: { status: 500, retryable: false },
  cache_unwritable: { status: 500, retryable: true },
  disk_full: { status: 500, retryable: true },
  device_unavailable: { status: 500, retryable: false },
  backend_failed: { status: 422, retryable: false },
  not_finite: { status: 422, retryable: false },
  out_of_memory: { status: 422, retryable: true },
  engine_busy: { status: 503, retryable: true },
  engine_crashed: { status: 422, retryable: true },
  cancelled: { status: 499, retryable: false },
  data_in_use: { status: 503, retryable: true },
  database_unavailable: { status: 503, retryable: true },
  storage_unavailable: { status: 503, retryable: true },
  unauthorized: { status: 401, retryable: false },
  forbidden: { status: 403, retryable: false },
  not_found: { status: 404, retryable: false },
  gone: { status: 404, retryable: false },
  no_credit: { status: 402, retryable: false },
  rate_limited: { status: 429, retryable: true },
  too_many_jobs: { status: 429, retryable: true },
  queue_full: { status: 503, retryable: true },
  too_large: { status: 413, retryable: false },
  fetch_failed: { status: 422, retryable: true },
  prompt_refused: { status: 400, retryable: false },
  idempotency_conflict: { status: 422, retryable: false },
  unsupported: { status: 422, retryable: false },
  internal: { status: 500, retryable: false },
} as const satisfies Record<string, { status: number; retryable: boolean }>

/** The name of one row of {@link errorTable}. */
export type ErrorCode = keyof typeof errorTable

/** An error as plain data; `field` as in {@link AppError}. */
export type ErrorDetail = {
  readonly code: ErrorCode
  readonly message: string
  readonly field?: string | undefined
}

/** An error meant for the user: `message` names the field, the value and the allowed range in one line. */
export class AppError extends Error {
  override readonly name = 'AppError'
  readonly code: ErrorCode
  /** Which input is at fault, where one is: a key of GenerateTask, or a path such as `start.image`. */
  readonly field: string | undefined
  /** When the same call may succeed, where that is known. */
  readonly retryAfterSeconds: number | undefined

  constructor(
    code: ErrorCode,
    message: string,
    options: { cause?: unknown; field?: string | undefined; retryAfterSeconds?: number | undefined } = {},
  ) {
    super(message, options)
    this.code = code
    this.field = options.field
    this.retryAfterSeconds = options.retryAfterSeconds
  }
}
