// NOTIFY from a PostgreSQL server: one connection for all channels, made again when it is lost.
import { setTimeout as sleep } from 'node:timers/promises'
import { Client, escapeIdentifier, type ClientConfig } from 'pg'

type Subscription = {
  readonly channel: string
  readonly onPayload: (payload: string) => void
  readonly onGap: () => void
}

const firstRetryMs = 100
const longestRetryMs = 5_000
/** A connection that does not answer for this long is taken for lost: a cut cable closes no socket. */
const checkEveryMs = 10_000
const answerWithinMs = 5_000

/** Subscriptions to channels that survive lost connections. */
export class PostgresListener implements AsyncDisposable {
  readonly #options: ClientConfig
  readonly #onError: (error: Error) => void
  readonly #subscriptions = new Set<Subscription>()
  readonly #closing = new AbortController()
  #client: Promise<Client> | null = null

  constructor(options: ClientConfig, onError: (error: Error) => void) {
    this.#options = options
    this.#onError = onError
  }

  /** Hear `channel`; the returned function ends it. That the first connection fails is the caller's to handle. */
  async listen(channel: string, onPayload: (payload: string) => void, onGap: () => void): Promise<() => Promise<void>> {
    const subscription = { channel, onPayload, onGap }
    this.#subscriptions.add(subscription)
    const connecting = (this.#client ??= this.#connect())
    try {
      // The connection may have been made before the subscription; a second LISTEN changes nothing.
      const client = await connecting
      await client.query(`listen ${escapeIdentifier(channel)}`)
    } catch (error) {
      this.#subscriptions.delete(subscription)
      if (this.#client === connecting) this.#client = null
      throw error
    }
    // A channel that nobody hears any more stays open until the connection is made again; it costs nothing.
    return async () => void this.#subscriptions.delete(subscription)
  }

  async #connect(): Promise<Client> {
    const client = new Client(this.#options)
    client.on('notification', ({ channel, payload }) => {
      for (const subscription of this.#subscriptions)
        if (subscription.channel === channel) subscription.onPayload(payload ?? '')
    })
    const lost = Promise.withResolvers<Error>()
    client.on('error', lost.resolve)
    client.on('end', () => lost.resolve(new Error('the connection for notifications was ended')))
    try {
      await client.connect()
      for (const channel of new Set([...this.#subscriptions].map((subscription) => subscription.channel)))
        await client.query(`listen ${escapeIdentifier(channel)}`)
    } catch (error) {
      client.connection.stream.destroy()
      throw error
    }
    void this.#watch(client, lost.promise)
    return client
  }

  /** Wait until a connection is lost, and make another one. */
  async #watch(client: Client, lost: Promise<Error>): Promise<void> {
    const watching = new AbortController()
    const error = await Promise.race([lost, silence(client, AbortSignal.any([watching.signal, this.#closing.signal]))])
    watching.abort()
    if (this.#closing.signal.aborted) return
    client.connection.stream.destroy()
    this.#client = this.#reconnect()
    // It fails at the end only, when nobody may be waiting for it.
    this.#client.catch(() => {})
    this.#onError(error)
  }

  async #reconnect(): Promise<Client> {
    for (let waitMs = firstRetryMs; ; waitMs = Math.min(2 * waitMs, longestRetryMs)) {
      await sleep(waitMs, null, { signal: this.#closing.signal })
      try {
        const client = await this.#connect()
        for (const { onGap } of this.#subscriptions) onGap()
        return client
      } catch (error) {
        if (this.#closing.signal.aborted) throw error
        this.#onError(error instanceof Error ? error : new Error(String(error)))
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort()
    this.#subscriptions.clear()
    if (!this.#client) return
    const [connected] = await Promise.allSettled([this.#client])
    if (connected.status === 'fulfilled') await connected.value.end()
  }
}

/** Resolves once the server leaves a question unanswered, or when `signal` ends the questions. */
async function silence(client: Client, signal: AbortSignal): Promise<Error> {
  try {
    for (;;) {
      await sleep(checkEveryMs, null, { signal, ref: false })
      await answer(client)
    }
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error))
  }
}

async function answer(client: Client): Promise<void> {
  const late = Promise.withResolvers<never>()
  const timer = setTimeout(() => {
    late.reject(new Error(`the connection for notifications did not answer within ${answerWithinMs} ms`))
  }, answerWithinMs)
  try {
    await Promise.race([client.query('select 1'), late.promise])
  } finally {
    clearTimeout(timer)
  }
}
