// Progress of a running job, written down at most a few times a second: of what comes faster, the newest counts.
import type { Progress } from '#worker/protocol.ts'
import { notePreview, noteProgress, type Claim, type JobStore } from './job-transitions.ts'

const intervalMs = 250

type Note = { readonly step: number; readonly of: number; readonly preview: Uint8Array | null }

/** Takes an engine's progress and writes it into the job's row; disposal drops what is not written yet. */
export class ProgressNotes implements AsyncDisposable {
  readonly #store: JobStore
  readonly #claim: Claim
  readonly #isWatched: () => boolean
  /** Picture → its steps; with a refiner all pictures are begun before the first is finished. */
  readonly #steps = new Map<number, number>()
  #latest: Note | null = null
  #writing: Promise<void> = Promise.resolve()
  #timer: NodeJS.Timeout | null = null
  #closed = false

  constructor(store: JobStore, claim: Claim, isWatched: () => boolean) {
    this.#store = store
    this.#claim = claim
    this.#isWatched = isWatched
  }

  /** Take what the engine says; steps count over all pictures of the job. */
  note(progress: Progress): void {
    if (progress.phase !== 'denoise' || progress.step === 0) return
    this.#steps.set(progress.image, progress.step)
    const step = this.#steps.values().reduce((sum, steps) => sum + steps, 0)
    const preview = progress.preview && this.#isWatched() ? progress.preview : null
    this.#latest = { step, of: this.#claim.job.images * progress.of, preview }
    this.#timer ??= setTimeout(() => this.#write(), intervalMs)
  }

  #write(): void {
    this.#timer = null
    const note = this.#latest
    this.#latest = null
    if (!note || this.#closed) return
    this.#writing = this.#keep(note)
  }

  async #keep({ step, of, preview }: Note): Promise<void> {
    try {
      await noteProgress(this.#store, this.#claim, step, of)
      if (preview) await notePreview(this.#store, this.#claim, step, preview)
    } catch (error) {
      // The next note tries again; how the job ends does not depend on it.
      this.#store.log.warn({ job: this.#claim.job.id, err: error }, 'progress could not be written')
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true
    if (this.#timer) clearTimeout(this.#timer)
    await this.#writing
  }
}
