// The product's record as tables. Delivery of jobs is pg-boss's and lies in a schema of its own; a job's row, its ledger
// entries and its pg-boss message change in one transaction.
import { sql } from 'drizzle-orm'
import {
  bigint,
  bigserial,
  boolean,
  check,
  customType,
  index,
  integer,
  jsonb,
  pgTable,
  primaryKey,
  text,
  timestamp,
  uniqueIndex,
} from 'drizzle-orm/pg-core'
import type { AssetReport, ContentHash, GenerateTask } from '#worker/protocol.ts'
import type { ErrorDetail } from '../../errors.ts'

const bytea = customType<{ data: Uint8Array; driverData: Uint8Array }>({ dataType: () => 'bytea' })
const time = (name: string) => timestamp(name, { withTimezone: true, mode: 'date' })
const micros = (name: string) => bigint(name, { mode: 'bigint' })

/** Whoever pays and is limited. A null limit is no limit; only prepaid accounts can run out of credit. */
export const accounts = pgTable('accounts', {
  /** acct_… */
  id: text('id').primaryKey(),
  name: text('name').notNull().unique(),
  createdAt: time('created_at').notNull().defaultNow(),
  requestsPerMinute: integer('requests_per_minute'),
  maxRunningJobs: integer('max_running_jobs'),
  maxQueuedJobs: integer('max_queued_jobs'),
  /** True: nothing is accepted that the balance does not cover. False: the ledger only counts. */
  prepaid: boolean('prepaid').notNull().default(false),
})

/** Secrets that stand for an account; only their SHA-256 is kept. */
export const tokens = pgTable(
  'tokens',
  {
    /** tok_… */
    id: text('id').primaryKey(),
    accountId: text('account_id')
      .notNull()
      .references(() => accounts.id),
    name: text('name').notNull(),
    hash: bytea('hash').notNull().unique(),
    /** The first characters of the token, to recognise it in a list. */
    prefix: text('prefix').notNull(),
    createdAt: time('created_at').notNull().defaultNow(),
    revokedAt: time('revoked_at'),
  },
  (table) => [index('tokens_account').on(table.accountId)],
)

/** Requests that an account has sent in each minute, shared by all API processes. */
export const requestCounts = pgTable(
  'request_counts',
  {
    accountId: text('account_id')
      .notNull()
      .references(() => accounts.id),
    minute: time('minute').notNull(),
    count: integer('count').notNull(),
  },
  (table) => [primaryKey({ columns: [table.accountId, table.minute] })],
)

/**
 * What was promised, taken and given, never changed. Each entry moves money between what an account can spend, what is held
 * for jobs that have not ended, and what is spent: credit adds to the balance; hold moves from balance to held; capture
 * from held to spent; release from held back to the balance. All three are sums over the entries.
 */
export const ledgerEntries = pgTable(
  'ledger_entries',
  {
    id: bigserial('id', { mode: 'bigint' }).primaryKey(),
    accountId: text('account_id')
      .notNull()
      .references(() => accounts.id),
    type: text('type', { enum: ['credit', 'hold', 'capture', 'release'] }).notNull(),
    /** Micro-dollars, signed as they count into the balance. */
    amountMicros: micros('amount_micros').notNull(),
    heldMicros: micros('held_micros').notNull(),
    spentMicros: micros('spent_micros').notNull(),
    /** What the entry is about: ('job', req_…), later ('tune', …), ('storage', …); for credit the operator's reference. */
    subjectKind: text('subject_kind').notNull(),
    subjectId: text('subject_id').notNull(),
    createdAt: time('created_at').notNull().defaultNow(),
  },
  (table) => [
    uniqueIndex('ledger_once').on(table.subjectKind, table.subjectId, table.type),
    // A hold ends once: by capture or by release, not by both.
    uniqueIndex('ledger_settled_once')
      .on(table.subjectKind, table.subjectId)
      .where(sql`${table.type} in ('capture', 'release')`),
    index('ledger_account').on(table.accountId, table.id),
    index('ledger_time').on(table.accountId, table.createdAt),
    check(
      'ledger_movement',
      sql`case ${table.type}
        when 'credit' then ${table.amountMicros} > 0 and ${table.heldMicros} = 0 and ${table.spentMicros} = 0
        when 'hold' then ${table.amountMicros} <= 0 and ${table.heldMicros} = -${table.amountMicros} and ${table.spentMicros} = 0
        when 'capture' then ${table.amountMicros} = 0 and ${table.spentMicros} >= 0 and ${table.heldMicros} = -${table.spentMicros}
        when 'release' then ${table.amountMicros} >= 0 and ${table.heldMicros} = -${table.amountMicros} and ${table.spentMicros} = 0
        else false
      end`,
    ),
  ],
)

/** Sums of an account's entries up to one of them, so that a balance need not go back to the first. */
export const ledgerClosings = pgTable(
  'ledger_closings',
  {
    accountId: text('account_id')
      .notNull()
      .references(() => accounts.id),
    /** The last entry that is in the sums. */
    throughId: bigint('through_id', { mode: 'bigint' }).notNull(),
    balanceMicros: micros('balance_micros').notNull(),
    heldMicros: micros('held_micros').notNull(),
    spentMicros: micros('spent_micros').notNull(),
  },
  (table) => [primaryKey({ columns: [table.accountId, table.throughId] })],
)

/** States of a job, in the order in which they can follow each other. */
export const jobStates = ['queued', 'running', 'succeeded', 'failed', 'cancelled'] as const
export type JobState = (typeof jobStates)[number]

/** What a finished picture job answers, without the pictures' bytes. */
export type JobResult = {
  readonly images: readonly { readonly key: string; readonly seed: number }[]
  readonly encoding: 'png' | 'jpeg'
  readonly predictionTimeMs: number
  readonly warnings: readonly string[]
}

export const jobs = pgTable(
  'jobs',
  {
    /** req_… */
    id: text('id').primaryKey(),
    accountId: text('account_id')
      .notNull()
      .references(() => accounts.id),
    state: text('state', { enum: jobStates }).notNull(),
    /** Which endpoint's shape the answer has. */
    route: text('route', { enum: ['generate', 'predict'] }).notNull(),
    synchronous: boolean('synchronous').notNull(),
    /** pg-boss queue: one a model and precision. */
    queue: text('queue').notNull(),
    /** Null once the job has ended, unless `logPrompt`. */
    task: jsonb('task').$type<GenerateTask>(),
    logPrompt: boolean('log_prompt').notNull(),
    /** What the answer's X-Sepia-Not-Applied says, such as use_refiner. */
    notApplied: jsonb('not_applied').$type<readonly string[]>().notNull(),
    /** Pictures asked for. */
    images: integer('images').notNull(),
    priceMicros: micros('price_micros').notNull(),
    idempotencyKey: text('idempotency_key'),
    /** SHA-256 of the canonical body, for idempotency. */
    bodyHash: bytea('body_hash'),
    /** Place in the round between accounts; the lowest goes first, and an account's jobs take consecutive ones. */
    turn: integer('turn').notNull(),
    /** Deliveries to a dispatcher; fences what a superseded one still tries to write. */
    attempt: integer('attempt').notNull().default(0),
    /** Engine processes that died over it. */
    crashes: integer('crashes').notNull().default(0),
    /** Dispatchers that ended or fell silent while they had it. */
    losses: integer('losses').notNull().default(0),
    step: integer('step').notNull().default(0),
    steps: integer('steps').notNull(),
    result: jsonb('result').$type<JobResult>(),
    error: jsonb('error').$type<ErrorDetail>(),
    createdAt: time('created_at').notNull().defaultNow(),
    startedAt: time('started_at'),
    endedAt: time('ended_at'),
    /** When result files are removed and the answer becomes a 404; null as long as the job runs. */
    expiresAt: time('expires_at'),
  },
  (table) => [
    uniqueIndex('jobs_idempotency').on(table.accountId, table.idempotencyKey),
    index('jobs_account').on(table.accountId, table.createdAt),
    index('jobs_outstanding').on(table.state, table.queue, table.turn, table.createdAt),
    index('jobs_expiry').on(table.expiresAt),
  ],
)

/** The latest preview of a running job: one row that is overwritten. */
export const previews = pgTable('previews', {
  jobId: text('job_id')
    .primaryKey()
    .references(() => jobs.id, { onDelete: 'cascade' }),
  step: integer('step').notNull(),
  jpeg: bytea('jpeg').notNull(),
})

/** Files of assets by what is in them; several assets may refer to one. A row goes with its last reference, then its file. */
export const assetBlobs = pgTable('asset_blobs', {
  /** SHA-256 of the bytes, by which tasks name the file. */
  hash: text('hash').$type<ContentHash>().primaryKey(),
  /** Where they lie in the file store; made up anew for each upload and never used again. */
  key: text('key').notNull().unique(),
  sizeBytes: bigint('size_bytes', { mode: 'number' }).notNull(),
  createdAt: time('created_at').notNull().defaultNow(),
})

/** What an asset can be, as the wire calls it. */
export const assetTypes = ['file', 'checkpoint', 'lora', 'textual_inversion', 'vae', 'latent'] as const
export type AssetType = (typeof assetTypes)[number]

/** States of an asset, as the wire calls them. */
export const assetStatuses = [
  'ready_to_upload',
  'uploading',
  'uploaded',
  'ready',
  'rejected',
  'error',
  'deleted',
] as const
export type AssetStatus = (typeof assetStatuses)[number]

/** What its owner, and later its inspection, says of an asset. */
export type AssetData = {
  /** Such as image/stable-diffusion-xl-v1-0; null for plain files. */
  readonly engine: string | null
  readonly dataType: string | null
  readonly fileFormat: string | null
  readonly triggerWords: readonly string[]
  /** The checkpoint that a LoRA was made for, as its owner calls it. */
  readonly checkpoint: string | null
  readonly version: string | null
}

export const assets = pgTable(
  'assets',
  {
    /** asset_… */
    id: text('id').primaryKey(),
    accountId: text('account_id')
      .notNull()
      .references(() => accounts.id),
    name: text('name').notNull(),
    description: text('description').notNull().default(''),
    type: text('type', { enum: assetTypes }).notNull(),
    data: jsonb('data').$type<AssetData>().notNull(),
    isPublic: boolean('is_public').notNull().default(false),
    status: text('status', { enum: assetStatuses }).notNull(),
    /** Why it was rejected, or what went wrong. */
    statusDetails: text('status_details').notNull().default(''),
    /** Where it was fetched from, if it was. */
    url: text('url'),
    hfRepo: text('hf_repo'),
    sizeBytes: bigint('size_bytes', { mode: 'number' }).notNull().default(0),
    /** An upload that has not been inspected yet: its key in the file store, and its SHA-256. */
    uploadKey: text('upload_key').unique(),
    uploadHash: text('upload_hash').$type<ContentHash>(),
    /** The file that jobs use; null unless the asset is ready. */
    hash: text('hash')
      .$type<ContentHash>()
      .references(() => assetBlobs.hash),
    report: jsonb('report').$type<AssetReport>(),
    createdAt: time('created_at').notNull().defaultNow(),
    /** When it became ready: from then on it counts as stored. */
    readyAt: time('ready_at'),
    /** When an upload that is not complete is given up. */
    expiresAt: time('expires_at'),
    deletedAt: time('deleted_at'),
  },
  (table) => [
    uniqueIndex('assets_name')
      .on(table.accountId, table.name)
      .where(sql`${table.deletedAt} is null`),
    index('assets_account').on(table.accountId, table.createdAt),
    index('assets_hash').on(table.hash),
    index('assets_expiry').on(table.expiresAt),
  ],
)

/** Files that jobs need which have not ended; as long as a row is here, its file stays. */
export const jobAssets = pgTable(
  'job_assets',
  {
    jobId: text('job_id')
      .notNull()
      .references(() => jobs.id, { onDelete: 'cascade' }),
    hash: text('hash')
      .$type<ContentHash>()
      .notNull()
      .references(() => assetBlobs.hash),
  },
  (table) => [primaryKey({ columns: [table.jobId, table.hash] }), index('job_assets_hash').on(table.hash)],
)

/** Parts of an upload in several parts, until it is complete or given up. */
export const uploadParts = pgTable(
  'upload_parts',
  {
    assetId: text('asset_id')
      .notNull()
      .references(() => assets.id),
    uploadId: text('upload_id').notNull(),
    /** 1 to 10000; 0 stands for the upload itself, which may have no parts yet. */
    number: integer('number').notNull(),
    key: text('key').notNull(),
    sizeBytes: bigint('size_bytes', { mode: 'number' }).notNull(),
    etag: text('etag').notNull(),
    createdAt: time('created_at').notNull().defaultNow(),
  },
  (table) => [primaryKey({ columns: [table.uploadId, table.number] }), index('upload_parts_asset').on(table.assetId)],
)

/** Secrets of this deployment, made up once and shared by its processes. */
export const secrets = pgTable('secrets', {
  name: text('name').primaryKey(),
  value: bytea('value').notNull(),
})
