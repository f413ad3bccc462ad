// What a waiting user sees of a download on stderr: on a terminal one line that is redrawn, elsewhere nothing.
import cliProgress from 'cli-progress'
import { formatBytes } from './doctor.ts'
import { fitLine } from './progress-bar.ts'
import type { Terminal } from './terminal.ts'

/** A line that is there until it is disposed of. */
export type DownloadBar = Disposable & { update(doneBytes: number): void }

/** Show the download of `name`; `totalBytes` is null where nobody knows it. */
export function showDownload(terminal: Terminal, name: string, totalBytes: number | null): DownloadBar {
  const stream = terminal.stderr
  if (!stream.isTTY) return { update() {}, [Symbol.dispose]() {} }
  let doneBytes: number | null = null
  let firstBytes = 0
  let firstMs = Date.now()
  const render = (width: number): string => {
    if (doneBytes === null) return fitLine({ label: `fetching ${name}`, fraction: null, details: [] }, width - 1)
    const rate = (doneBytes - firstBytes) / Math.max(1, Date.now() - firstMs)
    const left =
      totalBytes === null || rate === 0 ? [] : [`${Math.ceil((totalBytes - doneBytes) / rate / 1000)} s left`]
    const amount =
      totalBytes === null ? formatBytes(doneBytes) : `${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`
    const details = [amount, `${formatBytes(rate * 1000)}/s`, ...left]
    return fitLine(
      { label: `fetching ${name}`, fraction: totalBytes ? doneBytes / totalBytes : null, details },
      width - 1,
    )
  }
  const bar = new cliProgress.SingleBar({
    stream,
    clearOnComplete: true,
    linewrap: true,
    fps: 8,
    format: (_options, { maxWidth }) => render(maxWidth),
  })
  bar.start(1, 0)
  return {
    update(bytes) {
      // What was there before is no part of the pace.
      if (doneBytes === null) [firstBytes, firstMs] = [bytes, Date.now()]
      doneBytes = bytes
    },
    [Symbol.dispose]: () => bar.stop(),
  }
}
