import type { PGlite } from '@electric-sql/pglite'
import { PglitePgConnection } from '@electric-sql/pglite/node-postgres'
import { serialize } from 'pg-protocol'

type Bind = Parameters<typeof serialize.bind>[0]
type Execute = Parameters<typeof serialize.execute>[0]
type Named = Parameters<typeof serialize.close>[0]
type Parse = Parameters<typeof serialize.parse>[0]
type Answer = Awaited<ReturnType<PGlite['execProtocolStream']>>[number]

/** The messages of one statement, and what is known of their answers. */
type Batch = {
  readonly messages: Uint8Array[]
  /** Name of the prepared statement that is executed. */
  statement: string | undefined
  /** What the statement's rows look like, where PGlite has told it before and is not asked again. */
  description: Answer | undefined
  /** The batch begins with the beginning of a transaction, which has been answered. */
  readonly begins: boolean
}

/**
 * The connection of a node-postgres client to a PGlite in this process. PGlite's own one sends each message of a statement
 * by itself and cannot go on after an error; this one sends them together, as they would come over a socket. It asks once
 * what the rows of a prepared statement look like, and sends `begin` with the first statement of the transaction.
 */
export class PgliteConnection extends PglitePgConnection {
  readonly #server: PGlite
  readonly #descriptions = new Map<string, Answer>()
  #unsent: Batch = newBatch(false)
  #sent: Promise<void> = Promise.resolve()

  constructor(server: PGlite) {
    super({ pglite: server })
    this.#server = server
  }

  override query(text: string): void {
    if (text === 'begin' && !this.#unsent.begins) return this.#begin()
    this.#unsent.messages.push(serialize.query(text))
    this.flush()
  }

  override parse(statement: Parse): void {
    this.#unsent.messages.push(serialize.parse(statement))
  }

  override bind(config: Bind): void {
    this.#unsent.statement = config?.statement
    this.#unsent.messages.push(serialize.bind(config))
  }

  override describe(named: Named): void {
    this.#unsent.description = this.#descriptions.get(this.#unsent.statement ?? '')
    if (!this.#unsent.description) this.#unsent.messages.push(serialize.describe(named))
  }

  override execute(config: Execute): void {
    this.#unsent.messages.push(serialize.execute(config))
  }

  override close(named: Named): void {
    this.#unsent.messages.push(serialize.close(named))
  }

  override sync(): void {
    this.#unsent.messages.push(serialize.sync())
    this.flush()
  }

  override flush(): void {
    const batch = this.#unsent
    this.#unsent = newBatch(false)
    this.#sent = this.#sent.then(() => this.#exchange(batch)).catch((error: unknown) => void this.emit('error', error))
  }

  /** The client is told when everything before has been answered; the PGlite stays open. */
  override end(): void {
    this.#sent = this.#sent.then(() => super.end())
  }

  /** Answer at once: beginning a transaction does not fail. */
  #begin(): void {
    this.#unsent = newBatch(true)
    this.#sent = this.#sent.then(() => this.#answerBegin())
  }

  #answerBegin(): void {
    this.emit('commandComplete', { name: 'commandComplete', length: 0, text: 'BEGIN' })
    this.emit('readyForQuery', { name: 'readyForQuery', length: 0, status: 'T' })
  }

  async #exchange({ messages, statement, description, begins }: Batch): Promise<void> {
    const answers = await this.#server.execProtocolStream(Buffer.concat(messages), { throwOnError: false })
    const first = begins ? 1 + answers.findIndex(({ name }) => name === 'readyForQuery') : 0
    for (const answer of answers.slice(first)) {
      if (statement && (answer.name === 'rowDescription' || answer.name === 'noData'))
        this.#descriptions.set(statement, answer)
      this.emit(answer.name === 'error' ? 'errorMessage' : answer.name, answer)
      if (description && answer.name === 'bindComplete') this.emit(description.name, description)
    }
  }
}

function newBatch(begins: boolean): Batch {
  return {
    messages: begins ? [serialize.query('begin')] : [],
    statement: undefined,
    description: undefined,
    begins,
  }
}
