// One program that is measured, in a process of its own: it loads, and then evaluates each time that it is told to.
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { watchMemory, type MemoryUse } from '../memory/process-tree.ts'

export type Measurement = MemoryUse & { readonly loadSeconds: number; readonly seconds: readonly number[] }

/** A look at the memory walks all pages of a process: twenty a second took a third of two cores from what is measured. */
const lookEveryMs = 1000

/** A process that follows the protocol of {@link file://../timed-runs.ts}. */
export class Contestant {
  readonly #name: string
  readonly #child
  readonly #lines: AsyncIterator<string>
  readonly #stopWatching: () => MemoryUse
  #memory: MemoryUse = { totalMb: 0, privateMb: 0 }
  #last = ''

  private constructor(name: string, file: string, args: readonly string[]) {
    this.#name = name
    this.#child = spawn(file, [...args, '--turns'], { stdio: ['pipe', 'pipe', 'inherit'] })
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]()
    this.#stopWatching = watchMemory(this.#child.pid!, lookEveryMs)
  }

  /** Start a process, and wait until it has loaded and evaluated once; memory is watched until then. */
  static async load(name: string, file: string, args: readonly string[]): Promise<Contestant> {
    const contestant = new Contestant(name, file, args)
    try {
      await contestant.#until('ready')
      await contestant.evaluate()
    } catch (error) {
      contestant.kill()
      throw error
    } finally {
      contestant.#memory = contestant.#stopWatching()
    }
    return contestant
  }

  async evaluate(): Promise<void> {
    this.#child.stdin.write('\n')
    await this.#until('done')
  }

  /** End the process, and get what it has measured. */
  async end(): Promise<Measurement> {
    this.#child.stdin.end()
    await this.#until(null)
    const { loadSeconds, seconds } = JSON.parse(this.#last) as Measurement
    return { loadSeconds, seconds, ...this.#memory }
  }

  /** Stop a process that another one's failure has made useless. */
  kill(): void {
    this.#child.kill('SIGKILL')
  }

  /** Wait for a line; null: for the end of all lines. */
  async #until(line: string | null): Promise<void> {
    for (;;) {
      const { done, value } = await this.#lines.next()
      if (done) {
        if (line === null && this.#last !== '') return
        throw new Error(`${this.#name} has ended before "${line ?? 'its result'}"`)
      }
      if (value === line) return
      this.#last = value
    }
  }
}
