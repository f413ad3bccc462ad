import type { PGlite } from '@electric-sql/pglite'
import { PglitePgConnection } from '@electric-sql/pglite/node-postgres'
import { serialize } from 'pg-protocol'

type Bind = Parameters<typeof serialize.bind>[0]
type Execute = Parameters<typeof serialize.execute>[0]
type Named = Parameters<typeof serialize.close>[0]
type Parse = Parameters<typeof serialize.parse>[0]

/**
 * The connection of a node-postgres client to a PGlite in this process. PGlite's own one sends each message of a statement
 * by itself and cannot go on after an error; this one sends them together, as they would come over a socket.
 */
export class PgliteConnection extends PglitePgConnection {
  readonly #server: PGlite
  #unsent: Uint8Array[] = []
  #sent: Promise<void> = Promise.resolve()

  constructor(server: PGlite) {
    super({ pglite: server })
    this.#server = server
  }

  override query(text: string): void {
    this.#unsent.push(serialize.query(text))
    this.flush()
  }

  override parse(statement: Parse): void {
    this.#unsent.push(serialize.parse(statement))
  }

  override bind(config: Bind): void {
    this.#unsent.push(serialize.bind(config))
  }

  override describe(named: Named): void {
    this.#unsent.push(serialize.describe(named))
  }

  override execute(config: Execute): void {
    this.#unsent.push(serialize.execute(config))
  }

  override close(named: Named): void {
    this.#unsent.push(serialize.close(named))
  }

  override sync(): void {
    this.#unsent.push(serialize.sync())
    this.flush()
  }

  override flush(): void {
    const messages = Buffer.concat(this.#unsent)
    this.#unsent = []
    this.#sent = this.#sent
      .then(() => this.#exchange(messages))
      .catch((error: unknown) => void this.emit('error', error))
  }

  /** The client is told when everything before has been answered; the PGlite stays open. */
  override end(): void {
    this.#sent = this.#sent.then(() => super.end())
  }

  async #exchange(messages: Uint8Array): Promise<void> {
    for (const message of await this.#server.execProtocolStream(messages, { throwOnError: false }))
      this.emit(message.name === 'error' ? 'errorMessage' : message.name, message)
  }
}
