// One process of the service, started as an operator starts it, and ended as a power failure ends it.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const main = fileURLToPath(new URL('../../src/main.ts', import.meta.url))
const keptOutput = 20_000

/** Starts again as often as it is killed. */
export class ServiceProcess {
  readonly name: string
  readonly #argv: readonly string[]
  readonly #env: Readonly<Record<string, string>>
  readonly #ready: string
  #child: ChildProcess | null = null
  #output = ''

  /** `ready` is what it prints when it has started. */
  constructor(name: string, argv: readonly string[], env: Readonly<Record<string, string>>, ready: string) {
    this.name = name
    this.#argv = argv
    this.#env = env
    this.#ready = ready
  }

  /** Start it without waiting. */
  spawn(): void {
    const child = spawn(process.execPath, [main, ...this.#argv], {
      env: { ...process.env, ...this.#env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    this.#child = child
    this.#output = ''
    // Whoever ends this process ends what it started.
    const kill = (): void => void child.kill('SIGKILL')
    process.once('exit', kill)
    child.once('exit', () => process.removeListener('exit', kill))
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (text: string) => {
        this.#output = (this.#output + text).slice(-keptOutput)
        child.emit('spoke')
      })
  }

  /** Resolves when it has started. Rejects when it ends instead. */
  async ready(): Promise<void> {
    const child = this.#child
    if (!child) throw new Error(`${this.name} was not started`)
    while (!this.#output.includes(this.#ready)) {
      if (hasEnded(child)) {
        this.#child = null
        throw this.#ended(child)
      }
      const stop = new AbortController()
      const { signal } = stop
      await Promise.race([once(child, 'spoke', { signal }), once(child, 'exit', { signal })])
      stop.abort()
    }
  }

  /** SIGKILL, and wait until it is gone. Rejects when it has ended by itself before. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL')
  }

  /** SIGTERM, and wait until it has ended in peace. Rejects when it has not, or has ended by itself before. */
  async stop(): Promise<void> {
    await this.#end('SIGTERM')
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#child
    this.#child = null
    if (!child) return
    if (hasEnded(child)) throw this.#ended(child)
    const exited = once(child, 'exit')
    child.kill(signal)
    await exited
    if (signal === 'SIGTERM' && child.exitCode !== 143 && child.exitCode !== 0) throw this.#ended(child)
  }

  #ended({ exitCode, signalCode }: ChildProcess): Error {
    return new Error(`${this.name} ended with ${exitCode ?? signalCode}: ${this.#output.slice(-2000)}`)
  }

  /** Its process id while it runs. */
  get pid(): number | undefined {
    return this.#child?.pid
  }

  /** What it said last. */
  get output(): string {
    return this.#output
  }

  /** Process ids of its engines: its children, by the kernel's table. */
  enginePids(): readonly number[] {
    const pid = this.#child?.pid
    if (pid === undefined) return []
    try {
      const text = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim()
      return text === '' ? [] : text.split(' ').map(Number)
    } catch (error) {
      // It ended in this moment.
      if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return []
      throw error
    }
  }
}

const hasEnded = ({ exitCode, signalCode }: ChildProcess): boolean => exitCode !== null || signalCode !== null
