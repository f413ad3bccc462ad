// What commands print: one JSON object for scripts, lines and tables for people.
import type { Terminal } from './terminal.ts'

/** Print an answer: as one JSON object, or as lines. */
export function print(terminal: Terminal, json: boolean | undefined, answer: unknown, lines: () => string): void {
  terminal.stdout.write(json ? `${JSON.stringify(answer)}\n` : `${lines()}\n`)
}

/** Rows under headings, columns as wide as their widest cell. */
export function table(headings: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = headings.map((heading, column) => Math.max(heading.length, ...rows.map((row) => row[column].length)))
  return [headings, ...rows]
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column]))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}
