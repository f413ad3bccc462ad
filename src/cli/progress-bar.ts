// What a waiting user sees on stderr: on a terminal one line that is redrawn, elsewhere nothing, or with --verbose one
// line a phase.
import cliProgress from 'cli-progress'
import type { ComponentName } from '#engine/weights/checkpoint.ts'
import type { Progress } from '#worker/protocol.ts'
import { formatBytes } from './doctor.ts'
import type { Terminal } from './terminal.ts'

/** A phase in words; `fraction` is null while nothing can be counted; `details` are in the order of their worth. */
export type ProgressLine = {
  readonly label: string
  readonly fraction: number | null
  readonly details: readonly string[]
}

/** How progress is shown. */
export type ProgressDisplay = Disposable & {
  update(progress: Progress): void
  /** Take the line away, let `write` print, and bring the line back. */
  interrupt(write: () => void): void
}

/** Turns progress events into words and keeps the times of the steps; times are milliseconds of any one clock. */
export class ProgressNarrator {
  readonly #images: number
  #lastEventMs: number
  /** Steps done of each picture. */
  readonly #steps = new Map<number, number>()
  #stepMs: number[] = []

  constructor(images: number, nowMs: number) {
    this.#images = images
    this.#lastEventMs = nowMs
  }

  /** The line for an event that came at `nowMs`. */
  tell(progress: Progress, nowMs: number): ProgressLine {
    const elapsedMs = nowMs - this.#lastEventMs
    this.#lastEventMs = nowMs
    switch (progress.phase) {
      case 'hash':
      case 'prepare': {
        const { doneBytes, totalBytes } = progress
        const verb = progress.phase === 'hash' ? 'reading' : 'preparing'
        return {
          label: `${verb} ${componentWords[progress.component]}`,
          fraction: totalBytes === 0 ? 1 : doneBytes / totalBytes,
          details: [`${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`],
        }
      }
      case 'load':
        return { label: `loading ${componentWords[progress.component]}`, fraction: null, details: [] }
      case 'calibrate': {
        const { component, of, step } = progress
        return {
          label: `measuring ${componentWords[component]} for int8`,
          fraction: step / of,
          details: [`${step}/${of}`],
        }
      }
      case 'encode':
        return { label: 'encoding the prompt', fraction: null, details: [] }
      case 'encodeStart':
        return { label: 'encoding the picture', fraction: null, details: [] }
      case 'denoise':
        return this.#tellStep(progress.image, progress.step, progress.of, elapsedMs)
      case 'decode':
        return { label: `decoding ${this.#picture(progress.image)}`, fraction: null, details: [] }
      default:
        return progress satisfies never
    }
  }

  #tellStep(image: number, step: number, of: number, elapsedMs: number): ProgressLine {
    // An event without a step more only tells whose turn it is.
    if (step === (this.#steps.get(image) ?? 0) + 1) this.#stepMs = [...this.#stepMs, elapsedMs].slice(-5)
    this.#steps.set(image, step)
    const meanMs = this.#stepMs.reduce((sum, ms) => sum + ms, 0) / this.#stepMs.length
    const stepsLeft = of * this.#images - this.#steps.values().reduce((sum, done) => sum + done, 0)
    const pace = this.#stepMs.length > 0 ? [`${seconds(meanMs)}/step`, `${duration(meanMs * stepsLeft)} left`] : []
    return { label: this.#picture(image), fraction: step / of, details: [`step ${step}/${of}`, ...pace] }
  }

  #picture(image: number): string {
    return this.#images === 1 ? 'picture' : `picture ${image + 1}/${this.#images}`
  }
}

/** The display that suits this terminal. */
export function showProgress(terminal: Terminal, images: number, verbose: boolean): ProgressDisplay {
  if (terminal.stderr.isTTY) return new ProgressBar(terminal.stderr, images)
  return verbose
    ? new ProgressLog(terminal.stderr, images)
    : { update() {}, interrupt: (write) => write(), [Symbol.dispose]() {} }
}

/** One line at the bottom of a terminal; a phase that cannot be counted shows how long it has lasted. */
class ProgressBar implements ProgressDisplay {
  readonly #bar: cliProgress.SingleBar
  readonly #narrator: ProgressNarrator
  #line: ProgressLine = { label: 'starting', fraction: null, details: [] }
  #phaseStartMs = Date.now()

  constructor(stream: NodeJS.WritableStream, images: number) {
    this.#narrator = new ProgressNarrator(images, Date.now())
    this.#bar = new cliProgress.SingleBar({
      stream,
      clearOnComplete: true,
      // Lines are cut to the width here: a terminal told not to wrap would stay so when this process is killed.
      linewrap: true,
      fps: 8,
      format: (_options, { maxWidth }) => this.#render(maxWidth),
    })
    this.#bar.start(1, 0)
  }

  update(progress: Progress): void {
    const line = this.#narrator.tell(progress, Date.now())
    if (line.label !== this.#line.label) this.#phaseStartMs = Date.now()
    this.#line = line
  }

  interrupt(write: () => void): void {
    this.#bar.stop()
    write()
    this.#bar.start(1, 0)
  }

  [Symbol.dispose](): void {
    this.#bar.stop()
  }

  #render(width: number): string {
    const { fraction, details } = this.#line
    // While nothing moves, the seconds do.
    const elapsed = fraction === null || fraction === 0 ? [duration(Date.now() - this.#phaseStartMs)] : []
    return fitLine({ ...this.#line, details: [...details, ...elapsed] }, width - 1)
  }
}

/** A line of at most `width` columns: the label, the details that fit, and what is left, up to 24 columns, for a bar. */
export function fitLine({ label, fraction, details }: ProgressLine, width: number): string {
  let text = label
  for (const [index, detail] of details.entries()) {
    const longer = `${text}${index === 0 ? '  ' : ', '}${detail}`
    if (longer.length > width) break
    text = longer
  }
  const cells = Math.min(24, width - text.length - 2)
  if (fraction === null || cells < 6) return text.slice(0, Math.max(0, width))
  const full = Math.round(fraction * cells)
  return `${label}  ${'█'.repeat(full)}${'░'.repeat(cells - full)}${text.slice(label.length)}`
}

/** A line for each phase that begins, for logs. */
class ProgressLog implements ProgressDisplay {
  readonly #stream: NodeJS.WritableStream
  readonly #narrator: ProgressNarrator
  #lastLabel = ''

  constructor(stream: NodeJS.WritableStream, images: number) {
    this.#stream = stream
    this.#narrator = new ProgressNarrator(images, Date.now())
  }

  update(progress: Progress): void {
    const { label, details } = this.#narrator.tell(progress, Date.now())
    // Steps are worth a line each; pieces of a file are not.
    if (progress.phase !== 'denoise' && label === this.#lastLabel) return
    this.#lastLabel = label
    this.#stream.write(`${label}${progress.phase === 'denoise' ? `  ${details.join(', ')}` : ''}\n`)
  }

  interrupt(write: () => void): void {
    write()
  }

  [Symbol.dispose](): void {}
}

/** What people call the components. */
export const componentWords: Readonly<Record<ComponentName, string>> = {
  textEncoder: 'text encoder',
  textEncoder2: 'text encoder 2',
  unet: 'UNet',
  vae: 'VAE',
}

/** Seconds with a digit or two behind the point: "1.82 s". */
export function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`
}

function duration(ms: number): string {
  const total = Math.round(ms / 1000)
  if (total < 60) return `${total} s`
  const minutes = Math.floor(total / 60)
  return minutes < 60 ? `${minutes} min ${total % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}
