// Delivery: pg-boss carries a message for each outstanding job, leases it to one dispatcher at a time, and gives it to
// another one when that one falls silent. What the job is stands in its row; both change in one transaction.
import { sql } from 'drizzle-orm'
import { fromDrizzle, PgBoss, type JobAttempt } from 'pg-boss'
import type { Database, Transaction } from '../db/database.ts'
import { jobIdOf, messageIdOf } from './job.ts'

/** A message in a dispatcher's hands; `attempt` fences what is done with it. On a queue of inspections `jobId` is an asset's. */
export type Message = { readonly queue: string; readonly jobId: string; readonly attempt: JobAttempt }

/** Where a job's message stands: waiting, in a dispatcher's hands, or neither. */
export type MessageState = 'waiting' | 'leased' | 'gone'

/** What the names of queues begin with whose messages stand for assets that are to be inspected. */
export const inspectionQueues = 'inspect/'

/** How long a dispatcher may be silent before its jobs go to others, in seconds. */
export const leaseSeconds = 15

// A job may wait for a year and run for a day; how often it is tried again is decided by its row.
const queueOptions = {
  heartbeatSeconds: leaseSeconds,
  expireInSeconds: 24 * 60 * 60,
  retentionSeconds: 365 * 24 * 60 * 60,
  deleteAfterSeconds: 60 * 60,
  retryLimit: 1_000_000,
  retryDelay: 0,
} as const

/** The queue's messages; everything that takes a transaction takes part in it. */
export class MessageQueue implements AsyncDisposable {
  readonly #boss: PgBoss

  /** Start pg-boss on `database`; `onError` hears of what fails in its background work. */
  static async open(database: Database, onError: (error: unknown) => void): Promise<MessageQueue> {
    // Lapsed leases are looked for this often. A single process takes its own leases back when it starts.
    const superviseIntervalSeconds = database.kind === 'pglite' ? 60 : 5
    const boss = new PgBoss({
      ...database.bossOptions(),
      schedule: false,
      registerInstance: false,
      openTelemetry: { enabled: false },
      superviseIntervalSeconds,
      monitorIntervalSeconds: superviseIntervalSeconds,
      maintenanceIntervalSeconds: 600,
    })
    boss.on('error', onError)
    await boss.start()
    return new MessageQueue(boss)
  }

  private constructor(boss: PgBoss) {
    this.#boss = boss
  }

  /** Make the queue when it is not there; to be called before any other use of its name, outside a transaction. */
  async create(queue: string): Promise<void> {
    await this.#boss.createQueue(queue, queueOptions)
  }

  async send(tx: Transaction, queue: string, jobId: string, accountId: string, turn: number): Promise<void> {
    const id = messageIdOf(jobId)
    // Higher priorities go first, lower turns do.
    const options = { id, priority: -turn, group: { id: accountId }, db: fromDrizzle(tx, sql) }
    const sent = await this.#boss.send(queue, null, options)
    if (sent !== id) throw new Error(`pg-boss took no message for ${jobId}`)
  }

  /** The lease of a job's message that the first who takes it will have. */
  firstLease(queue: string, jobId: string): Message {
    return { queue, jobId, attempt: { id: messageIdOf(jobId), retryCount: 0 } }
  }

  /** Lease the first message of `queue` that belongs to none of the accounts. */
  async take(tx: Transaction, queue: string, ignoreAccounts: readonly string[]): Promise<Message | null> {
    const [job] = await this.#boss.fetch(queue, { ignoreGroups: [...ignoreAccounts], db: fromDrizzle(tx, sql) })
    if (!job) return null
    return { queue, jobId: idOn(queue, job.id), attempt: { id: job.id, retryCount: job.retryCount } }
  }

  /** False when the lease is somebody else's by now. */
  async complete(tx: Transaction, { queue, attempt }: Message): Promise<boolean> {
    const { affected } = await this.#settled(this.#boss.complete(queue, attempt, null, { db: fromDrizzle(tx, sql) }))
    return affected === 1
  }

  /** Put a leased message back at its place; false when the lease is somebody else's by now. */
  async giveBack(tx: Transaction, { queue, attempt }: Message): Promise<boolean> {
    const { affected } = await this.#settled(this.#boss.fail(queue, attempt, null, { db: fromDrizzle(tx, sql) }))
    return affected === 1
  }

  /** Put the message of a job whose dispatcher is known to be gone back at its place. */
  async takeBack(tx: Transaction, queue: string, jobId: string): Promise<void> {
    await this.#boss.fail(queue, messageIdOf(jobId), null, { db: fromDrizzle(tx, sql) })
  }

  /** Withdraw a message, waiting or leased. */
  async cancel(tx: Transaction, queue: string, jobId: string): Promise<void> {
    await this.#boss.cancel(queue, messageIdOf(jobId), { db: fromDrizzle(tx, sql) })
  }

  /** Renew leases; returns the jobs whose leases are still held. */
  async touch(messages: readonly Message[]): Promise<ReadonlySet<string>> {
    const held = new Set<string>()
    for (const [queue, group] of Map.groupBy(messages, ({ queue }) => queue)) {
      const attempts = group.map(({ attempt }) => attempt)
      const { settled } = (await this.#boss.touch(queue, attempts)) as Settled
      for (const id of settled) held.add(idOn(queue, id))
    }
    return held
  }

  async stateOf(queue: string, jobId: string): Promise<MessageState> {
    const [message] = await this.#boss.findJobs(queue, { id: messageIdOf(jobId) })
    if (!message) return 'gone'
    if (message.state === 'active') return 'leased'
    return message.state === 'created' || message.state === 'retry' ? 'waiting' : 'gone'
  }

  async #settled(response: Promise<object>): Promise<Settled> {
    return (await response) as Settled
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#boss.stop({ graceful: false, close: true })
  }
}

function idOn(queue: string, messageId: string): string {
  return jobIdOf(messageId, queue.startsWith(inspectionQueues) ? 'asset' : 'req')
}

/** What pg-boss answers to calls that settle or touch; its own type leaves it open. */
type Settled = { readonly affected: number; readonly settled: readonly string[] }
