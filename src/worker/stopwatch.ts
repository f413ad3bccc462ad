/** Adds up the time spent in named phases; loading inside a phase is counted as loading. */
export class Stopwatch<Phase extends string> {
  readonly #totals = new Map<Phase, number>()
  readonly #start = performance.now()
  #phase: Phase
  #since = performance.now()

  constructor(phase: Phase) {
    this.#phase = phase
  }

  /** End the current phase and begin another; returns the milliseconds since the last change. */
  enter(phase: Phase): number {
    const now = performance.now()
    const elapsed = now - this.#since
    this.#totals.set(this.#phase, this.ms(this.#phase) + elapsed)
    this.#phase = phase
    this.#since = now
    return elapsed
  }

  /** Run `work` as another phase, then go on with the current one. */
  async during<T>(phase: Phase, work: () => Promise<T>): Promise<T> {
    const outer = this.#phase
    this.enter(phase)
    try {
      return await work()
    } finally {
      this.enter(outer)
    }
  }

  /** Milliseconds spent in the finished parts of a phase. */
  ms(phase: Phase): number {
    return this.#totals.get(phase) ?? 0
  }

  totalMs(): number {
    return performance.now() - this.#start
  }
}
